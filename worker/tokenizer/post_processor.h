// The post-processor of a tokenizer.json: puts special tokens around the ids of a text.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/tokenizer/component.h"

namespace lexico::worker {

// What goes in front of a text and behind it.
struct PostProcessor {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};

// Known types: TemplateProcessing (its template for a single text, which must hold the text exactly
// once), BertProcessing, RobertaProcessing, ByteLevel (which only moves offsets), and a Sequence
// with at most one of the first three. InvalidArgument names any other. Null: nothing is added.
absl::StatusOr<PostProcessor> ReadPostProcessor(const Component& component);

}  // namespace lexico::worker

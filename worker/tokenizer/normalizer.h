// The normalizer of a tokenizer.json: rewrites a text before it is split.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tokenizer/component.h"

namespace lexico::worker {

// A text on its way through the normalizers.
struct NormalizedText {
  std::string text;
  // Characters were removed in front: what is first now did not begin the text. Only Metaspace with
  // prepend_scheme "first" asks for it.
  bool front_removed = false;
};

// Thread safety: immutable; Apply may be called from any thread.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Rewrites `text` (valid UTF-8 before and after). InvalidArgument: a regular expression ran out
  // of its step budget.
  virtual absl::Status Apply(NormalizedText* text) const = 0;
};

// Known types: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Replace, Prepend,
// ByteLevel. InvalidArgument names any other. Null gives a null pointer.
absl::StatusOr<std::unique_ptr<const Normalizer>> ReadNormalizer(const Component& component);

}  // namespace lexico::worker

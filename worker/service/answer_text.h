// The text of an answer while its ids arrive: whole characters only, nothing of a stop string.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "worker/model/stop_matcher.h"
#include "worker/tokenizer/incremental_decoder.h"

namespace lexico::worker {

// Thread-compatible; one per answer.
class AnswerText {
 public:
  AnswerText(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stops);

  // Text that is certain now. With `is_last` the rest comes too. "" for good once stopped().
  std::string Push(int32_t id, bool is_last);
  // Ids whose text was sent before: changes the state only.
  void Skip(std::span<const int32_t> ids);

  // A stop string ended the text.
  bool stopped() const { return matcher_.matched(); }
  // REQUIRES: stopped().
  const std::string& stop_string() const { return matcher_.matched_string(); }

 private:
  IncrementalDecoder decoder_;
  StopMatcher matcher_;
};

}  // namespace lexico::worker

// The pre-tokenizer of a tokenizer.json: splits a text into the words that the model then codes one
// by one.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tokenizer/component.h"

namespace lexico::worker {

// A text and its words, in order. Words are never empty and do not overlap; text between them was
// removed.
struct SplitText {
  struct Word {
    size_t begin;
    size_t end;
    bool at_start;  // begins where the user's whole text begins (Metaspace, prepend_scheme "first")
  };
  std::string text;
  std::vector<Word> words;

  std::string_view View(const Word& word) const {
    return std::string_view(text).substr(word.begin, word.end - word.begin);
  }
};

// Thread safety: immutable; Apply may be called from any thread.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Splits every word further, and may rewrite words. InvalidArgument: a regular expression ran out
  // of its step budget.
  virtual absl::Status Apply(SplitText* split) const = 0;
};

// Known types: Sequence, Split, ByteLevel, Metaspace, Whitespace, WhitespaceSplit, Digits,
// Punctuation, BertPreTokenizer, CharDelimiterSplit, FixedLength. InvalidArgument names any other.
// Null gives a null pointer.
absl::StatusOr<std::unique_ptr<const PreTokenizer>> ReadPreTokenizer(const Component& component);

}  // namespace lexico::worker

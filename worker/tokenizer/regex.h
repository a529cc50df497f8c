// Unicode regular expressions through Oniguruma, the engine Hugging Face tokenizers uses, with its
// default syntax: \p{L}, look-ahead, (?i:...) and so on mean exactly the same.
//
// Cost is bounded: a pattern is at most kRegexBytesMax long, one match may backtrack only
// kRegexRetriesMax times (plus a few per byte of text), one search of a whole text may take only
// kRegexSecondsPerMiB, and backtracking uses the heap, never the call stack.
//
// Thread safety: immutable after Compile; FindAll may be called from any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct re_pattern_buffer;  // Oniguruma's compiled pattern

namespace lexico::worker {

// A part of a text, and whether a pattern matched it.
struct Match {
  size_t begin;
  size_t end;
  bool matched;
};

class Regex {
 public:
  // InvalidArgument with the engine's reason when `pattern` is not a regular expression.
  static absl::StatusOr<std::unique_ptr<const Regex>> Compile(std::string_view pattern);
  // A pattern that matches exactly `literal`.
  static std::string Escape(std::string_view literal);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  // Covers `text` in order with matched and unmatched parts; empty matches are kept, except right
  // behind another match. `text` must be valid UTF-8. InvalidArgument: out of its step budget.
  absl::StatusOr<std::vector<Match>> FindAll(std::string_view text) const;

 private:
  explicit Regex(re_pattern_buffer* regex) : regex_(regex) {}

  re_pattern_buffer* regex_;  // owned
};

}  // namespace lexico::worker

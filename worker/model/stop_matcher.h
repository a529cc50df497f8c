// Finds stop strings in text that arrives in pieces, without ever letting a part of one out.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lexico::worker {

// Text that may still turn out to begin a stop string is held back. Thread-compatible.
class StopMatcher {
 public:
  // Empty strings are ignored. No strings: everything passes at once.
  explicit StopMatcher(std::vector<std::string> stops);

  // Takes the next piece and returns the text that may be shown now. Once matched() the text before
  // the stop string has been returned, and Feed returns "" for good. The string that
  // is complete first ends the text, and of several the longest: the answer does not depend on how
  // the text was cut into pieces.
  std::string Feed(std::string_view piece);
  // The end of the text: what was held back.
  std::string Flush();

  bool matched() const { return matched_ >= 0; }
  // REQUIRES: matched().
  const std::string& matched_string() const { return stops_[matched_]; }

 private:
  std::vector<std::string> stops_;
  std::string pending_;
  int matched_ = -1;
};

}  // namespace lexico::worker

// Checks UTF-8 that arrives in chunks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

namespace lexico::base {

// Accepts what RFC 3629 accepts: no overlong forms, no surrogates, nothing above U+10FFFF. A
// character may be split between chunks. Thread-compatible.
class Utf8Validator {
 public:
  // InvalidArgument with the offset of the first bad byte, counted from the first chunk; the
  // validator is then spent.
  absl::Status Push(std::string_view chunk);
  // InvalidArgument when the text ends in the middle of a character.
  absl::Status Finish() const;

 private:
  size_t offset_ = 0;   // of the next byte
  int n_pending_ = 0;   // continuation bytes that must follow
  uint8_t low_ = 0x80;  // range of the next continuation byte
  uint8_t high_ = 0xBF;
};

// The whole text at once.
absl::Status CheckUtf8(std::string_view text);

}  // namespace lexico::base

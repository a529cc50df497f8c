#include "proto/base/utf8.h"

#include <fmt/format.h>

#include "proto/base/status.h"

namespace lexico::base {
namespace {

absl::Status Bad(size_t offset, uint8_t byte) {
  return absl::InvalidArgumentError(
      fmt::format("text is not UTF-8: byte 0x{:02x} at offset {}", byte, offset));
}

}  // namespace

absl::Status Utf8Validator::Push(std::string_view chunk) {
  for (const char c : chunk) {
    const auto byte = static_cast<uint8_t>(c);
    if (n_pending_ > 0) {
      if (byte < low_ || byte > high_) return Bad(offset_, byte);
      low_ = 0x80;
      high_ = 0xBF;
      --n_pending_;
    } else if (byte >= 0x80) {
      // Table 3-7 of the Unicode standard: the first byte narrows the range of the second.
      if (byte < 0xC2 || byte > 0xF4) return Bad(offset_, byte);
      n_pending_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
      if (byte == 0xE0) low_ = 0xA0;
      if (byte == 0xED) high_ = 0x9F;
      if (byte == 0xF0) low_ = 0x90;
      if (byte == 0xF4) high_ = 0x8F;
    }
    ++offset_;
  }
  return absl::OkStatus();
}

absl::Status Utf8Validator::Finish() const {
  if (n_pending_ == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("text is not UTF-8: it ends within a character at offset {}", offset_));
}

absl::Status CheckUtf8(std::string_view text) {
  Utf8Validator validator;
  LEXICO_RETURN_IF_ERROR(validator.Push(text));
  return validator.Finish();
}

}  // namespace lexico::base

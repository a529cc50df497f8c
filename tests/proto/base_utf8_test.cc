#include <gtest/gtest.h>

#include <string>

#include "proto/base/utf8.h"
#include "tests/support/status_matchers.h"

namespace lexico::base {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

TEST(Utf8Test, EveryCodePointIsAcceptedAndEverySurrogateRefused) {
  for (uint32_t c = 0; c <= 0x10FFFF; ++c) {
    std::string text;
    if (c < 0x80) {
      text = {static_cast<char>(c)};
    } else if (c < 0x800) {
      text = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      text = {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
              static_cast<char>(0x80 | (c & 63))};
    } else {
      text = {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
              static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
    }
    const bool is_surrogate = c >= 0xD800 && c <= 0xDFFF;
    ASSERT_EQ(CheckUtf8(text).ok(), !is_surrogate) << std::hex << c;
  }
}

TEST(Utf8Test, OverlongAndTooLargeFormsAreRefused) {
  for (const char* text : {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF",
                           "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\x80"}) {
    EXPECT_THAT(CheckUtf8(text), StatusIs(StatusCode::kInvalidArgument, "not UTF-8"));
  }
}

TEST(Utf8Test, OffsetCountsFromTheFirstChunk) {
  Utf8Validator validator;
  ASSERT_THAT(validator.Push("abc"), IsOk());
  ASSERT_THAT(validator.Push("\xE2\x82"), IsOk());
  ASSERT_THAT(validator.Push("\xAC!"), IsOk());
  EXPECT_THAT(validator.Push("d\xFE"), StatusIs(StatusCode::kInvalidArgument, "0xfe at offset 8"));
}

TEST(Utf8Test, TextThatEndsWithinACharacterIsRefusedAtTheEndOnly) {
  Utf8Validator validator;
  ASSERT_THAT(validator.Push("a\xF0\x9F"), IsOk());
  EXPECT_THAT(validator.Finish(), StatusIs(StatusCode::kInvalidArgument, "offset 3"));
  ASSERT_THAT(validator.Push("\x98\x80"), IsOk());
  EXPECT_THAT(validator.Finish(), IsOk());
}

}  // namespace
}  // namespace lexico::base

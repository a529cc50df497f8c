// Unicode as the Hugging Face `tokenizers` crate sees it: each predicate says which Unicode version
// stands behind it, because the crate's own tables are of different ages and ids depend on them.
// Found by comparing all 1,112,064 characters with tokenizers 0.23 (tests/golden/tokenizer/
// make_goldens.py writes the samples that tokenizer_unicode_test.cc checks). Characters newer than
// Unicode 15 (ICU 72) count as unassigned here.
//
// All functions take valid UTF-8 or valid code points unless they say otherwise. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace lexico::worker {

// OK, or InvalidArgument with the byte offset of the first byte that begins no valid UTF-8 sequence
// (overlong forms, surrogates and values over U+10FFFF are invalid, as in RFC 3629).
absl::Status CheckUtf8(std::string_view text);

// Length in bytes of the sequence that the byte begins (1..4). REQUIRES: valid UTF-8.
inline size_t Utf8Length(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// The code point at *offset, which moves behind it. REQUIRES: valid UTF-8, *offset < size.
char32_t NextChar(std::string_view text, size_t* offset);
// The code point that ends at *offset, which moves to its begin. REQUIRES: *offset > 0.
char32_t PreviousChar(std::string_view text, size_t* offset);

void AppendChar(char32_t c, std::string* out);

// Appends any bytes as UTF-8: every maximal broken part becomes one U+FFFD (the "substitution of
// maximal subparts" of the Unicode Standard, chapter 3.9). Unless `final`, an unfinished but so far
// good sequence at the end is left alone. Returns the number of bytes consumed.
size_t AppendLossy(std::string_view bytes, bool final, std::string* out);

bool IsWhitespace(char32_t c);     // White_Space
bool IsNumeric(char32_t c);        // general category N
bool IsPunctuation(char32_t c);    // ASCII punctuation, or category P as of Unicode 8
bool IsWordChar(char32_t c);       // \w of UTS #18: Alphabetic, M, Nd, Pc, Join_Control
bool IsCombiningMark(char32_t c);  // category M as of Unicode 9

// Full lower case of single characters, without context (no final sigma rule).
std::string ToLower(std::string_view text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// The normal form as of Unicode 9: newer characters pass through unchanged.
std::string Normalize(NormalForm form, std::string_view text);

}  // namespace lexico::worker

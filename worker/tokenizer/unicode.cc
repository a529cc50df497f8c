#include "worker/tokenizer/unicode.h"

#include <fmt/format.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <memory>

#include "proto/base/check.h"

namespace lexico::worker {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// How many bytes at `offset` are one valid sequence (`valid`), or are a broken part; `unfinished`:
// the text ends inside a sequence that could still become valid.
struct Scan {
  size_t length;
  bool valid;
  bool unfinished;
};

// Well-formed sequences by lead byte: Unicode Standard, table 3-7.
Scan ScanSequence(std::string_view text, size_t offset) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[offset + i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t length = Utf8Length(static_cast<char>(lead));
  for (size_t i = 1; i < length; ++i) {
    if (offset + i == text.size()) return {i, false, true};
    uint8_t low = 0x80;
    uint8_t high = 0xBF;
    if (i == 1) {
      if (lead == 0xE0) low = 0xA0;   // overlong
      if (lead == 0xED) high = 0x9F;  // surrogates
      if (lead == 0xF0) low = 0x90;   // overlong
      if (lead == 0xF4) high = 0x8F;  // over U+10FFFF
    }
    if (byte(i) < low || byte(i) > high) return {i, false, false};
  }
  return {length, true, false};
}

bool HasCategory(char32_t c, uint32_t mask) {
  return (U_GET_GC_MASK(static_cast<UChar32>(c)) & mask) != 0;
}

bool IsAtMostUnicode(char32_t c, uint8_t version) {
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(c), age);
  return age[0] != 0 && (age[0] < version || (age[0] == version && age[1] == 0));
}

// The normaliser of a form, limited to the characters of Unicode 9.
class Unicode9Normalizer {
 public:
  explicit Unicode9Normalizer(const icu::Normalizer2* (*form)(UErrorCode&)) {
    UErrorCode error = U_ZERO_ERROR;
    const icu::Normalizer2* all = form(error);
    set_ = std::make_unique<icu::UnicodeSet>(icu::UnicodeString("[:age=9.0:]"), error);
    LEXICO_CHECK(U_SUCCESS(error));
    set_->freeze();
    filtered_ = std::make_unique<icu::FilteredNormalizer2>(*all, *set_);
  }
  std::string Apply(std::string_view text) const {
    UErrorCode error = U_ZERO_ERROR;
    const auto source = icu::UnicodeString::fromUTF8(
        icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
    std::string out;
    const icu::Normalizer2& normalizer = *filtered_;
    normalizer.normalize(source, error).toUTF8String(out);
    LEXICO_CHECK(U_SUCCESS(error));
    return out;
  }

 private:
  std::unique_ptr<icu::UnicodeSet> set_;
  std::unique_ptr<icu::FilteredNormalizer2> filtered_;
};

}  // namespace

absl::Status CheckUtf8(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    if (static_cast<uint8_t>(text[offset]) < 0x80) {
      ++offset;
      continue;
    }
    const Scan scan = ScanSequence(text, offset);
    if (!scan.valid) {
      return absl::InvalidArgumentError(fmt::format(
          "text is not UTF-8: byte {} of {} is 0x{:02x}, which begins no valid sequence", offset,
          text.size(), static_cast<uint8_t>(text[offset])));
    }
    offset += scan.length;
  }
  return absl::OkStatus();
}

char32_t NextChar(std::string_view text, size_t* offset) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data()) + *offset;
  const size_t length = Utf8Length(text[*offset]);
  *offset += length;
  switch (length) {
    case 1:
      return bytes[0];
    case 2:
      return (bytes[0] & 0x1Fu) << 6 | (bytes[1] & 0x3Fu);
    case 3:
      return (bytes[0] & 0x0Fu) << 12 | (bytes[1] & 0x3Fu) << 6 | (bytes[2] & 0x3Fu);
    default:
      return (bytes[0] & 0x07u) << 18 | (bytes[1] & 0x3Fu) << 12 | (bytes[2] & 0x3Fu) << 6 |
             (bytes[3] & 0x3Fu);
  }
}

char32_t PreviousChar(std::string_view text, size_t* offset) {
  do {
    --*offset;
  } while ((static_cast<uint8_t>(text[*offset]) & 0xC0) == 0x80);
  size_t begin = *offset;
  return NextChar(text, &begin);
}

void AppendChar(char32_t c, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

size_t AppendLossy(std::string_view bytes, bool final, std::string* out) {
  size_t offset = 0;
  while (offset < bytes.size()) {
    const Scan scan = ScanSequence(bytes, offset);
    if (scan.unfinished && !final) break;
    out->append(scan.valid ? bytes.substr(offset, scan.length) : kReplacement);
    offset += scan.length;
  }
  return offset;
}

bool IsWhitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D);
  return u_isUWhiteSpace(static_cast<UChar32>(c));
}

bool IsNumeric(char32_t c) { return HasCategory(c, U_GC_N_MASK); }

bool IsPunctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  }
  // Two characters that left and joined P after Unicode 8.
  if (c == 0x166D || c == 0x111C9) return true;
  return HasCategory(c, U_GC_P_MASK) && IsAtMostUnicode(c, 8);
}

bool IsWordChar(char32_t c) {
  if (c < 0x80) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '_' || (c >= 'a' && c <= 'z');
  }
  const auto code = static_cast<UChar32>(c);
  return HasCategory(c, U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK) ||
         u_hasBinaryProperty(code, UCHAR_ALPHABETIC) ||
         u_hasBinaryProperty(code, UCHAR_JOIN_CONTROL);
}

bool IsCombiningMark(char32_t c) {
  if (c < 0x300) return false;
  // Two characters that left M, and one that joined it, after Unicode 9.
  if (c == 0x1CF2 || c == 0x1CF3) return true;
  if (c == 0x111C9) return false;
  return HasCategory(c, U_GC_M_MASK) && IsAtMostUnicode(c, 9);
}

std::string ToLower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t offset = 0; offset < text.size();) {
    const char32_t c = NextChar(text, &offset);
    if (c == 0x130) {  // the only character whose lower case is two: i and a combining dot above
      out.append("i\xCC\x87");
    } else {
      AppendChar(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))), &out);
    }
  }
  return out;
}

std::string Normalize(NormalForm form, std::string_view text) {
  if (std::ranges::all_of(text, [](char c) { return static_cast<uint8_t>(c) < 0x80; })) {
    return std::string(text);  // ASCII is in every normal form
  }
  static const Unicode9Normalizer nfc(&icu::Normalizer2::getNFCInstance);
  static const Unicode9Normalizer nfd(&icu::Normalizer2::getNFDInstance);
  static const Unicode9Normalizer nfkc(&icu::Normalizer2::getNFKCInstance);
  static const Unicode9Normalizer nfkd(&icu::Normalizer2::getNFKDInstance);
  switch (form) {
    case NormalForm::kNfc:
      return nfc.Apply(text);
    case NormalForm::kNfd:
      return nfd.Apply(text);
    case NormalForm::kNfkc:
      return nfkc.Apply(text);
    case NormalForm::kNfkd:
      return nfkd.Apply(text);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::worker

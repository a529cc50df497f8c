#include "worker/tokenizer/jinja_strings.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include "proto/base/status.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker::jinja {
namespace {

icu::UnicodeString Icu(const std::string& text) { return icu::UnicodeString::fromUTF8(text); }
std::string Utf8(const icu::UnicodeString& text) {
  std::string out;
  text.toUTF8String(out);
  return out;
}

bool IsPythonSpace(char32_t c) { return IsWhitespace(c) || (c >= 0x1C && c <= 0x1F); }

bool InSet(char32_t c, std::string_view set) {
  if (set.empty()) return IsPythonSpace(c);
  for (size_t at = 0; at < set.size();) {
    if (NextChar(set, &at) == c) return true;
  }
  return false;
}

}  // namespace

std::string Strip(std::string_view text, std::string_view set, Side side) {
  size_t begin = 0;
  size_t end = text.size();
  for (size_t next = 0; side != Side::kRight && begin < end; begin = next) {
    if (!InSet(NextChar(text, &next), set)) break;
  }
  for (size_t next = end; side != Side::kLeft && begin < end; end = next) {
    if (!InSet(PreviousChar(text, &next), set)) break;
  }
  return std::string(text.substr(begin, end - begin));
}

std::string Upper(const std::string& text) {
  return Utf8(Icu(text).toUpper(icu::Locale::getRoot()));
}
std::string Lower(const std::string& text) {
  return Utf8(Icu(text).toLower(icu::Locale::getRoot()));
}

std::string Capitalize(const std::string& text) {
  if (text.empty()) return text;
  const size_t first = Utf8Length(text[0]);
  return Upper(text.substr(0, first)) + Lower(text.substr(first));
}

std::string Title(const std::string& text) {
  std::string out;
  size_t run = 0;  // where the current run of letters, or of others, begins
  bool in_letters = false;
  for (size_t begin = 0, end = 0; begin <= text.size(); begin = end) {
    const bool at_end = begin == text.size();
    const bool is_letter = !at_end && u_isalpha(static_cast<UChar32>(NextChar(text, &end)));
    if (at_end || is_letter != in_letters) {
      const std::string part = text.substr(run, begin - run);
      out += in_letters ? Capitalize(part) : part;
      run = begin;
      in_letters = is_letter;
    }
    if (at_end) break;
  }
  return out;
}

int64_t CharCount(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return count;
}

std::vector<std::string> Split(std::string_view text, std::string_view separator,
                               int64_t max_splits) {
  std::vector<std::string> parts;
  const auto may_split = [&] {
    return max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits;
  };
  if (!separator.empty()) {
    for (size_t at; may_split() && (at = text.find(separator)) != std::string_view::npos;) {
      parts.emplace_back(text.substr(0, at));
      text.remove_prefix(at + separator.size());
    }
    parts.emplace_back(text);
    return parts;
  }
  size_t at = 0;
  const auto skip = [&](bool space) {
    for (size_t next = at; at < text.size(); at = next) {
      if (IsPythonSpace(NextChar(text, &next)) != space) break;
    }
  };
  for (skip(true); at < text.size(); skip(true)) {
    const size_t begin = at;
    if (may_split()) {
      skip(false);
    } else {
      at = text.size();
    }
    parts.emplace_back(text.substr(begin, at - begin));
  }
  return parts;
}

std::vector<std::string> SplitLines(std::string_view text) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '\n' && text[at] != '\r') continue;
    lines.emplace_back(text.substr(begin, at - begin));
    if (text[at] == '\r' && at + 1 < text.size() && text[at + 1] == '\n') ++at;
    begin = at + 1;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

absl::StatusOr<std::string> ReplaceAll(std::string_view text, std::string_view from,
                                       std::string_view to, int64_t count, Budget* budget) {
  std::string out;
  auto may_replace = [&, n = int64_t{0}]() mutable { return count < 0 || n++ < count; };
  if (from.empty()) {  // found before every character and at the end
    const auto n_places = static_cast<size_t>(CharCount(text)) + 1;
    LEXICO_RETURN_IF_ERROR(budget->TakeSteps(n_places));
    LEXICO_RETURN_IF_ERROR(budget->TakeBytes(n_places * to.size()));
    for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      if (may_replace()) out.append(to);
      NextChar(text, &end);
      out.append(text, begin, end - begin);
    }
    if (may_replace()) out.append(to);
    return out;
  }
  size_t begin = 0;
  for (size_t at; (at = text.find(from, begin)) != std::string_view::npos && may_replace();
       begin = at + from.size()) {
    LEXICO_RETURN_IF_ERROR(budget->TakeBytes(at - begin + to.size()));
    out.append(text, begin, at - begin);
    out.append(to);
  }
  out.append(text, begin);
  return out;
}

}  // namespace lexico::worker::jinja

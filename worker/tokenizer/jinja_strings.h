// Operations on strings that Python's str methods and Jinja's filters share. Valid UTF-8 in and
// out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/tokenizer/jinja_value.h"

namespace lexico::worker::jinja {

enum class Side { kLeft, kRight, kBoth };

// Without the characters of `set` at the sides; an empty set means white space.
std::string Strip(std::string_view text, std::string_view set, Side side);
std::string Upper(const std::string& text);
std::string Lower(const std::string& text);
// The first character in upper, the others in lower case.
std::string Capitalize(const std::string& text);
// Capitalize for every run of letters.
std::string Title(const std::string& text);
int64_t CharCount(std::string_view text);
// Python's split: at white space runs without a separator, at most max_splits times unless it is
// negative.
std::vector<std::string> Split(std::string_view text, std::string_view separator,
                               int64_t max_splits);
std::vector<std::string> SplitLines(std::string_view text);
// At most `count` replacements unless it is negative. ResourceExhausted before making too much.
absl::StatusOr<std::string> ReplaceAll(std::string_view text, std::string_view from,
                                       std::string_view to, int64_t count, Budget* budget);

}  // namespace lexico::worker::jinja

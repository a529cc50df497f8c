// Splits a Jinja template into text and tags, and tags into tokens. White space around tags goes as
// in Jinja2 with trim_blocks and lstrip_blocks, which is how transformers renders chat templates.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lexico::worker::jinja {

enum class TokenKind {
  kText,      // outside of tags
  kOpenVar,   // {{
  kCloseVar,  // }}
  kOpenTag,   // {%
  kCloseTag,  // %}
  kName,
  kString,
  kInt,
  kFloat,
  kOperator,  // punctuation of expressions, "**" and "//" included
  kEnd
};

struct Token {
  TokenKind kind;
  std::string text;  // of kString without quotes and escapes
  int64_t int_value = 0;
  double float_value = 0;
  int line = 0;  // from 1
};

// The last token is kEnd. InvalidArgument with the line: an unclosed tag, string or comment, or a
// character that no expression can have.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace lexico::worker::jinja

#include "worker/tokenizer/jinja_lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "proto/base/status.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker::jinja {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Line ends become "\n", and one at the very end goes.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
      continue;
    }
    out.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) LEXICO_RETURN_IF_ERROR(Step());
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(fmt::format("template line {}: {}", line_, what));
  }
  void Add(TokenKind kind, std::string_view text) {
    tokens_.push_back(Token{kind, std::string(text), 0, 0, line_});
  }
  void MoveTo(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                         source_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    at_ = end;
  }
  bool LooksAt(std::string_view text) const {
    return std::string_view(source_).substr(at_).starts_with(text);
  }

  // The text up to the next tag, and the tag.
  absl::Status Step() {
    size_t tag = source_.find('{', at_);
    while (tag != std::string::npos && tag + 1 < source_.size() &&
           std::string_view("{%#").find(source_[tag + 1]) == std::string_view::npos) {
      tag = source_.find('{', tag + 1);
    }
    if (tag == std::string::npos || tag + 1 >= source_.size()) {
      Add(TokenKind::kText, std::string_view(source_).substr(at_));
      MoveTo(source_.size());
      return absl::OkStatus();
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    AddText(tag, kind, sign);
    MoveTo(tag + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    if (kind == '#') return Comment();
    if (kind == '%') {
      if (const auto end = RawEnd()) return Raw(*end);
    }
    Add(kind == '{' ? TokenKind::kOpenVar : TokenKind::kOpenTag, "");
    return Expression(kind == '{' ? "}}" : "%}", kind != '{');
  }

  // Text before a tag, without the white space that the tag takes along.
  void AddText(size_t end, char kind, char sign) {
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-') {
      while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
    } else if (sign != '+' && kind != '{') {
      const size_t newline = text.rfind('\n');
      const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      const bool at_line_start = line_begin > 0 || at_ == 0 || source_[at_ - 1] == '\n';
      if (at_line_start && std::ranges::all_of(text.substr(line_begin), IsSpace)) {
        text = text.substr(0, line_begin);
      }
    }
    if (!text.empty()) Add(TokenKind::kText, text);
  }

  // Behind a tag's end: all white space after "-", else one newline after blocks and comments.
  void SkipBehind(char sign, bool is_block) {
    size_t end = at_;
    if (sign == '-') {
      while (end < source_.size() && IsSpace(source_[end])) ++end;
    } else if (is_block && sign != '+' && end < source_.size() && source_[end] == '\n') {
      ++end;
    }
    MoveTo(end);
  }

  absl::Status Comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return Error("a comment is not closed");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    MoveTo(end + 2);
    SkipBehind(sign, /*is_block=*/true);
    return absl::OkStatus();
  }

  // Behind "{%": where the tag "raw %}" ends, if it is one.
  std::optional<size_t> RawEnd() const { return WordTagEnd(at_, "raw"); }
  std::optional<size_t> WordTagEnd(size_t at, std::string_view word) const {
    const auto skip = [&] {
      while (at < source_.size() && IsSpace(source_[at])) ++at;
    };
    skip();
    if (!std::string_view(source_).substr(at).starts_with(word)) return std::nullopt;
    at += word.size();
    skip();
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) ++at;
    if (!std::string_view(source_).substr(at).starts_with("%}")) return std::nullopt;
    return at + 2;
  }

  absl::Status Raw(size_t begin) {
    const char open_sign = source_[begin - 3];
    MoveTo(begin);
    SkipBehind(open_sign, /*is_block=*/true);
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != std::string::npos; tag += 2) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      const auto end = WordTagEnd(tag + (sign == '-' || sign == '+' ? 3 : 2), "endraw");
      if (!end.has_value()) continue;
      AddText(tag, '%', sign);
      MoveTo(*end);
      SkipBehind(source_[*end - 3], /*is_block=*/true);
      return absl::OkStatus();
    }
    return Error("a raw block is not closed");
  }

  absl::Status Expression(std::string_view close, bool is_block) {
    int n_open = 0;  // brackets: "}}" inside of a dictionary does not close
    while (true) {
      while (at_ < source_.size() && IsSpace(source_[at_])) MoveTo(at_ + 1);
      if (at_ >= source_.size()) return Error("a tag is not closed");
      const char c = source_[at_];
      const bool signed_close =
          (c == '-' || c == '+') && std::string_view(source_).substr(at_ + 1).starts_with(close);
      if (n_open == 0 && (signed_close || LooksAt(close))) {
        Add(is_block ? TokenKind::kCloseTag : TokenKind::kCloseVar, "");
        MoveTo(at_ + close.size() + (signed_close ? 1 : 0));
        SkipBehind(signed_close ? c : ' ', is_block);
        return absl::OkStatus();
      }
      if (c == '(' || c == '[' || c == '{') ++n_open;
      if (c == ')' || c == ']' || c == '}') --n_open;
      LEXICO_RETURN_IF_ERROR(AddToken(c));
    }
  }

  absl::Status AddToken(char c) {
    if (IsNameStart(c)) {
      size_t end = at_;
      while (end < source_.size() && (IsNameStart(source_[end]) || IsDigit(source_[end]))) ++end;
      Add(TokenKind::kName, std::string_view(source_).substr(at_, end - at_));
      MoveTo(end);
      return absl::OkStatus();
    }
    if (IsDigit(c)) return AddNumber();
    if (c == '"' || c == '\'') return AddString(c);
    for (const std::string_view op : {"**", "//", "==", "!=", "<=", ">="}) {
      if (LooksAt(op)) {
        Add(TokenKind::kOperator, op);
        MoveTo(at_ + 2);
        return absl::OkStatus();
      }
    }
    if (std::string_view("+-*/%~<>=()[]{}.,:|").find(c) == std::string_view::npos) {
      return Error(fmt::format("unexpected character 0x{:02x} in an expression",
                               static_cast<unsigned char>(c)));
    }
    Add(TokenKind::kOperator, std::string_view(&c, 1));
    MoveTo(at_ + 1);
    return absl::OkStatus();
  }

  absl::Status AddNumber() {
    size_t end = at_;
    bool is_float = false;
    while (end < source_.size()) {
      const char c = source_[end];
      const bool is_point =
          c == '.' && !is_float && end + 1 < source_.size() && IsDigit(source_[end + 1]);
      if (!IsDigit(c) && !is_point) break;
      is_float |= is_point;
      ++end;
    }
    const char* begin = source_.data() + at_;
    Token token{is_float ? TokenKind::kFloat : TokenKind::kInt, "", 0, 0, line_};
    const auto result = is_float ? std::from_chars(begin, source_.data() + end, token.float_value)
                                 : std::from_chars(begin, source_.data() + end, token.int_value);
    if (result.ec != std::errc()) return Error("a number is out of range");
    tokens_.push_back(std::move(token));
    MoveTo(end);
    return absl::OkStatus();
  }

  absl::Status AddString(char quote) {
    std::string text;
    size_t at = at_ + 1;
    while (at < source_.size() && source_[at] != quote) {
      if (source_[at] == '\\' && at + 1 < source_.size()) {
        at = AddEscape(at + 1, &text);
      } else {
        text.push_back(source_[at++]);
      }
    }
    if (at >= source_.size()) return Error("a string is not closed");
    Add(TokenKind::kString, text);
    MoveTo(at + 1);
    return absl::OkStatus();
  }

  // Python's escapes; an unknown one stands for itself. Returns where the escape ends.
  size_t AddEscape(size_t at, std::string* text) {
    constexpr std::string_view kFrom = "nrtbfav0\\'\"";
    constexpr std::string_view kTo("\n\r\t\b\f\a\v\0\\'\"", 11);
    const char c = source_[at];
    const size_t n_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (n_digits > 0 && at + n_digits < source_.size()) {
      uint32_t code = 0;
      const char* begin = source_.data() + at + 1;
      const auto result = std::from_chars(begin, begin + n_digits, code, 16);
      const bool is_scalar = code < 0xD800 || (code >= 0xE000 && code <= 0x10FFFF);
      if (result.ptr == begin + n_digits && is_scalar) {
        AppendChar(code, text);
        return at + 1 + n_digits;
      }
    }
    if (c == '\n') return at + 1;  // a continued line
    if (const size_t index = kFrom.find(c); index != std::string_view::npos) {
      text->push_back(kTo[index]);
    } else {
      text->push_back('\\');
      text->push_back(c);
    }
    return at + 1;
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  LEXICO_RETURN_IF_ERROR(CheckUtf8(source));
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace lexico::worker::jinja

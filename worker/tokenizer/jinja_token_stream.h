// The tokens of a template, one after the other, for the two parsers.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tokenizer/jinja_lexer.h"

namespace lexico::worker::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& Peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  // The last token, kEnd, is never passed.
  const Token& Next() {
    const Token& token = Peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool Is(TokenKind kind, std::string_view text) const {
    return Peek().kind == kind && Peek().text == text;
  }
  bool IsOp(std::string_view text) const { return Is(TokenKind::kOperator, text); }
  bool IsName(std::string_view text) const { return Is(TokenKind::kName, text); }
  bool TakeOp(std::string_view text) { return IsOp(text) && (Next(), true); }
  bool TakeName(std::string_view text) { return IsName(text) && (Next(), true); }

  size_t position() const { return at_; }
  // Whether the name is anywhere between a position and here.
  bool HasNameSince(size_t position, std::string_view name) const {
    return std::any_of(tokens_.begin() + static_cast<ptrdiff_t>(position),
                       tokens_.begin() + static_cast<ptrdiff_t>(at_), [name](const Token& token) {
                         return token.kind == TokenKind::kName && token.text == name;
                       });
  }

  absl::Status Expect(TokenKind kind, std::string_view what) {
    if (Peek().kind != kind) return Error(fmt::format("expected {}", what));
    Next();
    return absl::OkStatus();
  }
  absl::Status ExpectOp(std::string_view op) {
    return TakeOp(op) ? absl::OkStatus() : Error(fmt::format("expected '{}'", op));
  }
  absl::StatusOr<std::string> TakeAnyName() {
    if (Peek().kind != TokenKind::kName) return Error("expected a name");
    return Next().text;
  }
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(fmt::format("template line {}: {}", Peek().line, what));
  }

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace lexico::worker::jinja

// Parser of Jinja expressions; statements are in jinja_parser.cc.
#pragma once

#include "absl/status/statusor.h"
#include "worker/tokenizer/jinja_ast.h"
#include "worker/tokenizer/jinja_token_stream.h"

namespace lexico::worker::jinja {

// Precedence as in Jinja2, loosest first: a if b else c; or; and; not; comparisons, in; + -; ~;
// * / // %; **; unary - +; and closest attributes, calls, then filters and tests.
class ExpressionParser {
 public:
  // `tokens` must outlive the parser.
  explicit ExpressionParser(TokenStream* tokens) : tokens_(*tokens) {}

  // One expression; with `allow_tuple` also "a, b" (a list). InvalidArgument names the line.
  absl::StatusOr<ExprPtr> Parse(bool allow_tuple);
  // An expression without "if": the iterable of a for, whose own "if" follows.
  absl::StatusOr<ExprPtr> ParseNoCondition() { return Or(); }
  // A chain "name(args) | name" of filters on `input`, as behind {% filter %}.
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr input);

 private:
  class Nesting;
  using Result = absl::StatusOr<ExprPtr>;
  using Level = Result (ExpressionParser::*)();

  Result Make(Expr expr);
  Result MakeBinary(const std::string& op, ExprPtr left, ExprPtr right);
  Result LeftChain(Level next, std::initializer_list<const char*> ops);
  Result Conditional();
  Result Or();
  Result And();
  Result Not();
  Result Compare();
  Result Sum();
  Result Concat();
  Result Product();
  Result Power();
  Result Unary();
  Result UnaryOf(bool with_filters);
  Result Primary();
  Result NamedConstant(const std::string& name);
  Result Brackets();
  Result DictLiteral();
  Result Postfix(ExprPtr expr);
  Result Subscript(ExprPtr expr);
  Result FiltersAndTests(ExprPtr expr);
  Result Filter(ExprPtr expr);
  Result Test(ExprPtr expr);
  absl::Status CallArguments(Expr* call);

  TokenStream& tokens_;
  int nesting_ = 0;
};

}  // namespace lexico::worker::jinja

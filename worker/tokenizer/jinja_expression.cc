#include "worker/tokenizer/jinja_expression.h"

#include <algorithm>
#include <optional>

#include "proto/base/limits.h"
#include "proto/base/status.h"

namespace lexico::worker::jinja {
namespace {

// Expressions in brackets in brackets: each level of the parser recurses through a dozen functions.
constexpr int kNestingMax = 64;

Expr Node(ExprKind kind, int line) {
  Expr expr{kind};
  expr.line = line;
  return expr;
}

std::optional<std::string> ComparisonAt(const TokenStream& tokens) {
  for (const char* op : {"==", "!=", "<", "<=", ">", ">="}) {
    if (tokens.IsOp(op)) return op;
  }
  if (tokens.IsName("in")) return "in";
  const Token& next = tokens.Peek(1);
  if (tokens.IsName("not") && next.kind == TokenKind::kName && next.text == "in") return "not in";
  return std::nullopt;
}

}  // namespace

class ExpressionParser::Nesting {
 public:
  explicit Nesting(int* depth) : depth_(depth) { ++*depth_; }
  ~Nesting() { --*depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  int* depth_;
};

ExpressionParser::Result ExpressionParser::Make(Expr expr) {
  for (const ExprPtr& arg : expr.args) {
    if (arg != nullptr) expr.height = std::max(expr.height, arg->height + 1);
  }
  for (const auto& [name, arg] : expr.named) expr.height = std::max(expr.height, arg->height + 1);
  if (expr.height > base::kTemplateDepthMax) {
    return tokens_.Error(
        fmt::format("an expression nested deeper than {}", base::kTemplateDepthMax));
  }
  return std::make_unique<const Expr>(std::move(expr));
}

ExpressionParser::Result ExpressionParser::MakeBinary(const std::string& op, ExprPtr left,
                                                      ExprPtr right) {
  const ExprKind kind = op == "and"  ? ExprKind::kAnd
                        : op == "or" ? ExprKind::kOr
                                     : ExprKind::kBinary;
  Expr expr = Node(kind, left->line);
  expr.name = op;
  expr.args.push_back(std::move(left));
  expr.args.push_back(std::move(right));
  return Make(std::move(expr));
}

ExpressionParser::Result ExpressionParser::LeftChain(Level next,
                                                     std::initializer_list<const char*> ops) {
  LEXICO_ASSIGN_OR_RETURN(ExprPtr left, (this->*next)());
  while (true) {
    const auto op = std::ranges::find_if(
        ops, [&](const char* o) { return tokens_.IsOp(o) || tokens_.IsName(o); });
    if (op == ops.end()) return left;
    tokens_.Next();
    LEXICO_ASSIGN_OR_RETURN(ExprPtr right, (this->*next)());
    LEXICO_ASSIGN_OR_RETURN(left, MakeBinary(*op, std::move(left), std::move(right)));
  }
}

ExpressionParser::Result ExpressionParser::Parse(bool allow_tuple) {
  LEXICO_ASSIGN_OR_RETURN(ExprPtr first, Conditional());
  if (!allow_tuple || !tokens_.IsOp(",")) return first;
  Expr list = Node(ExprKind::kList, first->line);
  list.args.push_back(std::move(first));
  while (tokens_.TakeOp(",")) {
    const TokenKind next = tokens_.Peek().kind;
    if (next == TokenKind::kCloseTag || next == TokenKind::kCloseVar || tokens_.IsOp(")")) break;
    LEXICO_ASSIGN_OR_RETURN(ExprPtr element, Conditional());
    list.args.push_back(std::move(element));
  }
  return Make(std::move(list));
}

ExpressionParser::Result ExpressionParser::Conditional() {
  const Nesting nesting(&nesting_);
  if (nesting_ > kNestingMax) {
    return tokens_.Error(fmt::format("an expression nested deeper than {}", kNestingMax));
  }
  LEXICO_ASSIGN_OR_RETURN(ExprPtr expr, Or());
  while (tokens_.TakeName("if")) {
    Expr conditional = Node(ExprKind::kIf, expr->line);
    conditional.args.push_back(std::move(expr));
    LEXICO_ASSIGN_OR_RETURN(ExprPtr condition, Or());
    conditional.args.push_back(std::move(condition));
    ExprPtr otherwise;
    if (tokens_.TakeName("else")) {
      LEXICO_ASSIGN_OR_RETURN(otherwise, Conditional());
    }
    conditional.args.push_back(std::move(otherwise));
    LEXICO_ASSIGN_OR_RETURN(expr, Make(std::move(conditional)));
  }
  return expr;
}

ExpressionParser::Result ExpressionParser::Or() {
  return LeftChain(&ExpressionParser::And, {"or"});
}
ExpressionParser::Result ExpressionParser::And() {
  return LeftChain(&ExpressionParser::Not, {"and"});
}

ExpressionParser::Result ExpressionParser::Not() {
  if (!tokens_.IsName("not")) return Compare();
  const Nesting nesting(&nesting_);
  if (nesting_ > kNestingMax) return tokens_.Error("too many 'not'");
  Expr expr = Node(ExprKind::kNot, tokens_.Next().line);
  LEXICO_ASSIGN_OR_RETURN(ExprPtr operand, Not());
  expr.args.push_back(std::move(operand));
  return Make(std::move(expr));
}

ExpressionParser::Result ExpressionParser::Compare() {
  LEXICO_ASSIGN_OR_RETURN(ExprPtr first, Sum());
  if (!ComparisonAt(tokens_).has_value()) return first;
  Expr compare = Node(ExprKind::kCompare, first->line);
  compare.args.push_back(std::move(first));
  while (const auto op = ComparisonAt(tokens_)) {
    tokens_.Next();
    if (*op == "not in") tokens_.Next();
    compare.names.push_back(*op);
    LEXICO_ASSIGN_OR_RETURN(ExprPtr operand, Sum());
    compare.args.push_back(std::move(operand));
  }
  return Make(std::move(compare));
}

ExpressionParser::Result ExpressionParser::Sum() {
  return LeftChain(&ExpressionParser::Concat, {"+", "-"});
}
ExpressionParser::Result ExpressionParser::Concat() {
  return LeftChain(&ExpressionParser::Product, {"~"});
}
ExpressionParser::Result ExpressionParser::Product() {
  return LeftChain(&ExpressionParser::Power, {"*", "//", "/", "%"});
}
ExpressionParser::Result ExpressionParser::Power() {
  return LeftChain(&ExpressionParser::Unary, {"**"});
}
ExpressionParser::Result ExpressionParser::Unary() { return UnaryOf(/*with_filters=*/true); }

ExpressionParser::Result ExpressionParser::UnaryOf(bool with_filters) {
  const Nesting nesting(&nesting_);
  if (nesting_ > kNestingMax) {
    return tokens_.Error(fmt::format("an expression nested deeper than {}", kNestingMax));
  }
  ExprPtr expr;
  if (tokens_.IsOp("-") || tokens_.IsOp("+")) {
    Expr sign = Node(tokens_.IsOp("-") ? ExprKind::kNegate : ExprKind::kPlus, tokens_.Peek().line);
    tokens_.Next();
    LEXICO_ASSIGN_OR_RETURN(ExprPtr operand, UnaryOf(/*with_filters=*/false));
    sign.args.push_back(std::move(operand));
    LEXICO_ASSIGN_OR_RETURN(expr, Make(std::move(sign)));
  } else {
    LEXICO_ASSIGN_OR_RETURN(expr, Primary());
  }
  LEXICO_ASSIGN_OR_RETURN(expr, Postfix(std::move(expr)));
  return with_filters ? FiltersAndTests(std::move(expr)) : Result(std::move(expr));
}

ExpressionParser::Result ExpressionParser::NamedConstant(const std::string& name) {
  Expr expr = Node(ExprKind::kConst, tokens_.Peek().line);
  if (name == "true" || name == "True") {
    expr.constant = Value(true);
  } else if (name == "false" || name == "False") {
    expr.constant = Value(false);
  } else if (name == "none" || name == "None") {
    expr.constant = Value(None{});
  } else {
    expr.kind = ExprKind::kName;
    expr.name = name;
  }
  return Make(std::move(expr));
}

ExpressionParser::Result ExpressionParser::Primary() {
  if (tokens_.IsOp("(") || tokens_.IsOp("[")) return Brackets();
  if (tokens_.IsOp("{")) return DictLiteral();
  const Token& token = tokens_.Peek();
  Expr expr = Node(ExprKind::kConst, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      return NamedConstant(tokens_.Next().text);
    case TokenKind::kInt:
      expr.constant = Value(token.int_value);
      break;
    case TokenKind::kFloat:
      expr.constant = Value(token.float_value);
      break;
    case TokenKind::kString: {
      std::string text;  // neighbouring strings are one, as in Python
      while (tokens_.Peek().kind == TokenKind::kString) text += tokens_.Next().text;
      expr.constant = Value(std::move(text));
      return Make(std::move(expr));
    }
    default:
      return tokens_.Error("expected an expression");
  }
  tokens_.Next();
  return Make(std::move(expr));
}

// (a), (a, b) and [a, b]
ExpressionParser::Result ExpressionParser::Brackets() {
  const Token& open = tokens_.Next();
  const std::string close = open.text == "(" ? ")" : "]";
  Expr list = Node(ExprKind::kList, open.line);
  bool has_comma = false;
  while (!tokens_.IsOp(close)) {
    LEXICO_ASSIGN_OR_RETURN(ExprPtr element, Conditional());
    list.args.push_back(std::move(element));
    if (!tokens_.TakeOp(",")) break;
    has_comma = true;
  }
  LEXICO_RETURN_IF_ERROR(tokens_.ExpectOp(close));
  if (close == ")" && list.args.size() == 1 && !has_comma) return std::move(list.args[0]);
  return Make(std::move(list));
}

ExpressionParser::Result ExpressionParser::DictLiteral() {
  Expr dict = Node(ExprKind::kDict, tokens_.Next().line);
  while (!tokens_.IsOp("}")) {
    LEXICO_ASSIGN_OR_RETURN(ExprPtr key, Conditional());
    LEXICO_RETURN_IF_ERROR(tokens_.ExpectOp(":"));
    LEXICO_ASSIGN_OR_RETURN(ExprPtr value, Conditional());
    dict.args.push_back(std::move(key));
    dict.args.push_back(std::move(value));
    if (!tokens_.TakeOp(",")) break;
  }
  LEXICO_RETURN_IF_ERROR(tokens_.ExpectOp("}"));
  return Make(std::move(dict));
}

ExpressionParser::Result ExpressionParser::Postfix(ExprPtr expr) {
  while (true) {
    if (tokens_.TakeOp(".")) {
      Expr attr = Node(ExprKind::kAttr, expr->line);
      if (tokens_.Peek().kind == TokenKind::kInt) {
        attr.kind = ExprKind::kIndex;
        LEXICO_ASSIGN_OR_RETURN(ExprPtr index, Primary());
        attr.args.push_back(std::move(expr));
        attr.args.push_back(std::move(index));
      } else {
        LEXICO_ASSIGN_OR_RETURN(attr.name, tokens_.TakeAnyName());
        attr.args.push_back(std::move(expr));
      }
      LEXICO_ASSIGN_OR_RETURN(expr, Make(std::move(attr)));
    } else if (tokens_.TakeOp("[")) {
      LEXICO_ASSIGN_OR_RETURN(expr, Subscript(std::move(expr)));
    } else if (tokens_.IsOp("(")) {
      Expr call = Node(ExprKind::kCall, expr->line);
      call.args.push_back(std::move(expr));
      LEXICO_RETURN_IF_ERROR(CallArguments(&call));
      LEXICO_ASSIGN_OR_RETURN(expr, Make(std::move(call)));
    } else {
      return expr;
    }
  }
}

// Behind "[": an index, or start:stop:step with any part left out.
ExpressionParser::Result ExpressionParser::Subscript(ExprPtr expr) {
  Expr slice = Node(ExprKind::kSlice, expr->line);
  slice.args.push_back(std::move(expr));
  int n_colons = 0;
  ExprPtr part;
  while (!tokens_.IsOp("]")) {
    if (tokens_.TakeOp(":")) {
      if (++n_colons > 2) return tokens_.Error("a slice has three parts");
      slice.args.push_back(std::move(part));
      continue;
    }
    if (part != nullptr) return tokens_.Error("expected ']'");
    LEXICO_ASSIGN_OR_RETURN(part, Conditional());
  }
  tokens_.Next();
  slice.args.push_back(std::move(part));
  if (n_colons == 0) {
    if (slice.args[1] == nullptr) return tokens_.Error("expected an index");
    slice.kind = ExprKind::kIndex;
  } else {
    slice.args.resize(4);
  }
  return Make(std::move(slice));
}

absl::Status ExpressionParser::CallArguments(Expr* call) {
  LEXICO_RETURN_IF_ERROR(tokens_.ExpectOp("("));
  while (!tokens_.IsOp(")")) {
    const Token& next = tokens_.Peek(1);
    const bool is_named = tokens_.Peek().kind == TokenKind::kName &&
                          next.kind == TokenKind::kOperator && next.text == "=";
    std::string name;
    if (is_named) {
      name = tokens_.Next().text;
      tokens_.Next();
    }
    LEXICO_ASSIGN_OR_RETURN(ExprPtr value, Conditional());
    if (is_named) {
      call->named.emplace_back(std::move(name), std::move(value));
    } else {
      call->args.push_back(std::move(value));
    }
    if (!tokens_.TakeOp(",")) break;
  }
  return tokens_.ExpectOp(")");
}

ExpressionParser::Result ExpressionParser::FiltersAndTests(ExprPtr expr) {
  while (true) {
    if (tokens_.TakeOp("|")) {
      LEXICO_ASSIGN_OR_RETURN(expr, Filter(std::move(expr)));
    } else if (tokens_.TakeName("is")) {
      LEXICO_ASSIGN_OR_RETURN(expr, Test(std::move(expr)));
    } else if (tokens_.IsOp("(")) {
      LEXICO_ASSIGN_OR_RETURN(expr, Postfix(std::move(expr)));
    } else {
      return expr;
    }
  }
}

ExpressionParser::Result ExpressionParser::ParseFilters(ExprPtr input) {
  LEXICO_ASSIGN_OR_RETURN(ExprPtr expr, Filter(std::move(input)));
  while (tokens_.TakeOp("|")) {
    LEXICO_ASSIGN_OR_RETURN(expr, Filter(std::move(expr)));
  }
  return expr;
}

ExpressionParser::Result ExpressionParser::Filter(ExprPtr expr) {
  Expr filter = Node(ExprKind::kFilter, expr->line);
  LEXICO_ASSIGN_OR_RETURN(filter.name, tokens_.TakeAnyName());
  filter.args.push_back(std::move(expr));
  if (tokens_.IsOp("(")) LEXICO_RETURN_IF_ERROR(CallArguments(&filter));
  return Make(std::move(filter));
}

// Behind "is": a name, and arguments in brackets, or one without.
ExpressionParser::Result ExpressionParser::Test(ExprPtr expr) {
  const int line = expr->line;
  const bool negated = tokens_.TakeName("not");
  Expr test = Node(ExprKind::kTest, line);
  LEXICO_ASSIGN_OR_RETURN(test.name, tokens_.TakeAnyName());
  test.args.push_back(std::move(expr));
  const Token& next = tokens_.Peek();
  const bool is_word = next.kind == TokenKind::kName && next.text != "else" && next.text != "or" &&
                       next.text != "and" && next.text != "if" && next.text != "is" &&
                       next.text != "in" && next.text != "not";
  if (tokens_.IsOp("(")) {
    LEXICO_RETURN_IF_ERROR(CallArguments(&test));
  } else if (is_word || next.kind == TokenKind::kString || next.kind == TokenKind::kInt ||
             next.kind == TokenKind::kFloat || tokens_.IsOp("[") || tokens_.IsOp("{")) {
    LEXICO_ASSIGN_OR_RETURN(ExprPtr argument, Primary());
    LEXICO_ASSIGN_OR_RETURN(argument, Postfix(std::move(argument)));
    test.args.push_back(std::move(argument));
  }
  LEXICO_ASSIGN_OR_RETURN(ExprPtr made, Make(std::move(test)));
  if (!negated) return made;
  Expr inverted = Node(ExprKind::kNot, line);
  inverted.args.push_back(std::move(made));
  return Make(std::move(inverted));
}

}  // namespace lexico::worker::jinja

// Parser of Jinja statements; expressions are in jinja_expression.cc.
#include <initializer_list>
#include <optional>

#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/tokenizer/jinja_ast.h"
#include "worker/tokenizer/jinja_expression.h"
#include "worker/tokenizer/jinja_lexer.h"
#include "worker/tokenizer/jinja_token_stream.h"

namespace lexico::worker::jinja {
namespace {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)), expressions_(&tokens_) {}

  absl::StatusOr<Body> ParseAll() {
    LEXICO_ASSIGN_OR_RETURN(Body body, ParseBody({}));
    if (tokens_.Peek().kind != TokenKind::kEnd) return tokens_.Error("a tag ends nothing");
    return body;
  }

 private:
  using Result = absl::StatusOr<std::unique_ptr<const Stmt>>;

  static std::unique_ptr<Stmt> Make(StmtKind kind, int line) {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = line;
    return stmt;
  }

  bool AtTag(std::initializer_list<std::string_view> names) const {
    if (tokens_.Peek().kind != TokenKind::kOpenTag) return false;
    for (const std::string_view name : names) {
      if (tokens_.Peek(1).kind == TokenKind::kName && tokens_.Peek(1).text == name) return true;
    }
    return false;
  }

  // Statements up to one of the tags (which is not taken) or the end.
  absl::StatusOr<Body> ParseBody(std::initializer_list<std::string_view> until) {
    if (++depth_ > base::kTemplateDepthMax / 2) {
      return tokens_.Error(
          fmt::format("blocks nested deeper than {}", base::kTemplateDepthMax / 2));
    }
    Body body;
    while (tokens_.Peek().kind != TokenKind::kEnd && !AtTag(until)) {
      LEXICO_ASSIGN_OR_RETURN(auto stmt, ParseOne());
      body.push_back(std::move(stmt));
    }
    --depth_;
    return body;
  }

  absl::Status CloseTag() { return tokens_.Expect(TokenKind::kCloseTag, "'%}'"); }
  // The tag {% name %}, which must be next.
  absl::Status TakeTag(std::string_view name) {
    if (!AtTag({name})) return tokens_.Error(fmt::format("expected '{{% {} %}}'", name));
    tokens_.Next();
    tokens_.Next();
    return CloseTag();
  }

  Result ParseOne() {
    const Token& token = tokens_.Next();
    auto stmt = Make(StmtKind::kText, token.line);
    if (token.kind == TokenKind::kText) {
      stmt->text = token.text;
      return stmt;
    }
    if (token.kind == TokenKind::kOpenVar) {
      stmt->kind = StmtKind::kOutput;
      LEXICO_ASSIGN_OR_RETURN(stmt->expr, expressions_.Parse(/*allow_tuple=*/true));
      LEXICO_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kCloseVar, "'}}'"));
      return stmt;
    }
    LEXICO_ASSIGN_OR_RETURN(const std::string name, tokens_.TakeAnyName());
    if (name == "if") return ParseIf(std::move(stmt));
    if (name == "for") return ParseFor(std::move(stmt));
    if (name == "set") return ParseSet(std::move(stmt));
    if (name == "macro") return ParseMacro(std::move(stmt));
    if (name == "call") return ParseCall(std::move(stmt));
    if (name == "filter") return ParseFilter(std::move(stmt));
    if (name == "generation") {
      stmt->kind = StmtKind::kBlock;
      return ParseRest(std::move(stmt), "endgeneration");
    }
    if (name == "break" || name == "continue") {
      if (n_loops_ == 0) return tokens_.Error(fmt::format("'{}' outside of a loop", name));
      stmt->kind = name == "break" ? StmtKind::kBreak : StmtKind::kContinue;
      LEXICO_RETURN_IF_ERROR(CloseTag());
      return stmt;
    }
    return tokens_.Error(fmt::format("unknown tag '{}'", name));
  }

  // The end of the opening tag, the body, and the closing tag.
  Result ParseRest(std::unique_ptr<Stmt> stmt, const char* end) {
    LEXICO_RETURN_IF_ERROR(CloseTag());
    LEXICO_ASSIGN_OR_RETURN(stmt->body, ParseBody({end}));
    LEXICO_RETURN_IF_ERROR(TakeTag(end));
    return stmt;
  }

  Result ParseIf(std::unique_ptr<Stmt> stmt) {
    stmt->kind = StmtKind::kIf;
    while (true) {
      LEXICO_ASSIGN_OR_RETURN(ExprPtr condition, expressions_.Parse(/*allow_tuple=*/false));
      LEXICO_RETURN_IF_ERROR(CloseTag());
      LEXICO_ASSIGN_OR_RETURN(Body body, ParseBody({"elif", "else", "endif"}));
      stmt->branches.emplace_back(std::move(condition), std::move(body));
      if (!AtTag({"elif"})) break;
      tokens_.Next();
      tokens_.Next();
    }
    if (AtTag({"else"})) {
      LEXICO_RETURN_IF_ERROR(TakeTag("else"));
      LEXICO_ASSIGN_OR_RETURN(stmt->else_body, ParseBody({"endif"}));
    }
    LEXICO_RETURN_IF_ERROR(TakeTag("endif"));
    return stmt;
  }

  // a, b or (a, b)
  absl::StatusOr<std::vector<std::string>> ParseTargets() {
    std::vector<std::string> names;
    const bool in_brackets = tokens_.TakeOp("(");
    do {
      LEXICO_ASSIGN_OR_RETURN(std::string name, tokens_.TakeAnyName());
      names.push_back(std::move(name));
    } while (tokens_.TakeOp(","));
    if (in_brackets) LEXICO_RETURN_IF_ERROR(tokens_.ExpectOp(")"));
    return names;
  }

  Result ParseFor(std::unique_ptr<Stmt> stmt) {
    stmt->kind = StmtKind::kFor;
    LEXICO_ASSIGN_OR_RETURN(stmt->names, ParseTargets());
    if (!tokens_.TakeName("in")) return tokens_.Error("expected 'in'");
    LEXICO_ASSIGN_OR_RETURN(stmt->expr, expressions_.ParseNoCondition());
    if (tokens_.TakeName("if")) {
      LEXICO_ASSIGN_OR_RETURN(stmt->condition, expressions_.Parse(/*allow_tuple=*/false));
    }
    if (tokens_.IsName("recursive")) return tokens_.Error("recursive loops are not supported");
    LEXICO_RETURN_IF_ERROR(CloseTag());
    ++n_loops_;
    const size_t body_begin = tokens_.position();
    LEXICO_ASSIGN_OR_RETURN(stmt->body, ParseBody({"else", "endfor"}));
    stmt->uses_loop = tokens_.HasNameSince(body_begin, "loop");
    --n_loops_;
    if (AtTag({"else"})) {
      LEXICO_RETURN_IF_ERROR(TakeTag("else"));
      LEXICO_ASSIGN_OR_RETURN(stmt->else_body, ParseBody({"endfor"}));
    }
    LEXICO_RETURN_IF_ERROR(TakeTag("endfor"));
    return stmt;
  }

  Result ParseSet(std::unique_ptr<Stmt> stmt) {
    stmt->kind = StmtKind::kSet;
    LEXICO_ASSIGN_OR_RETURN(stmt->names, ParseTargets());
    if (stmt->names.size() == 1 && tokens_.TakeOp(".")) {
      stmt->kind = StmtKind::kSetAttr;
      LEXICO_ASSIGN_OR_RETURN(std::string attribute, tokens_.TakeAnyName());
      stmt->names.push_back(std::move(attribute));
    }
    if (tokens_.TakeOp("=")) {
      LEXICO_ASSIGN_OR_RETURN(stmt->expr, expressions_.Parse(/*allow_tuple=*/true));
      LEXICO_RETURN_IF_ERROR(CloseTag());
      return stmt;
    }
    if (stmt->names.size() != 1) return tokens_.Error("expected '='");
    stmt->kind = StmtKind::kSetBlock;
    if (tokens_.TakeOp("|")) {
      LEXICO_ASSIGN_OR_RETURN(stmt->expr, expressions_.ParseFilters(FilteredText()));
    }
    return ParseRest(std::move(stmt), "endset");
  }

  ExprPtr FilteredText() const {
    auto text = std::make_unique<Expr>();
    text->kind = ExprKind::kName;
    text->line = tokens_.Peek().line;
    text->name = kFilteredText;
    return text;
  }

  Result ParseMacro(std::unique_ptr<Stmt> stmt) {
    stmt->kind = StmtKind::kMacro;
    LEXICO_ASSIGN_OR_RETURN(std::string name, tokens_.TakeAnyName());
    stmt->names.push_back(std::move(name));
    LEXICO_RETURN_IF_ERROR(tokens_.ExpectOp("("));
    while (!tokens_.IsOp(")")) {
      LEXICO_ASSIGN_OR_RETURN(std::string parameter, tokens_.TakeAnyName());
      stmt->names.push_back(std::move(parameter));
      if (tokens_.TakeOp("=")) {
        LEXICO_ASSIGN_OR_RETURN(ExprPtr value, expressions_.Parse(/*allow_tuple=*/false));
        stmt->defaults.push_back(std::move(value));
      } else if (!stmt->defaults.empty()) {
        return tokens_.Error("a parameter without default behind one with");
      }
      if (!tokens_.TakeOp(",")) break;
    }
    LEXICO_RETURN_IF_ERROR(tokens_.ExpectOp(")"));
    const int n_loops = std::exchange(n_loops_, 0);  // break does not reach out of a macro
    auto result = ParseRest(std::move(stmt), "endmacro");
    n_loops_ = n_loops;
    return result;
  }

  Result ParseCall(std::unique_ptr<Stmt> stmt) {
    stmt->kind = StmtKind::kCall;
    LEXICO_ASSIGN_OR_RETURN(stmt->expr, expressions_.Parse(/*allow_tuple=*/false));
    if (stmt->expr->kind != ExprKind::kCall) return tokens_.Error("expected a call");
    const int n_loops = std::exchange(n_loops_, 0);
    auto result = ParseRest(std::move(stmt), "endcall");
    n_loops_ = n_loops;
    return result;
  }

  Result ParseFilter(std::unique_ptr<Stmt> stmt) {
    stmt->kind = StmtKind::kFilter;
    LEXICO_ASSIGN_OR_RETURN(stmt->expr, expressions_.ParseFilters(FilteredText()));
    return ParseRest(std::move(stmt), "endfilter");
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int depth_ = 0;
  int n_loops_ = 0;  // that the current statement is in
};

}  // namespace

absl::StatusOr<Body> Parse(std::string_view source) {
  if (source.size() > base::kTemplateBytesMax) {
    return absl::InvalidArgumentError(
        fmt::format("template of {} bytes, at most {}", source.size(), base::kTemplateBytesMax));
  }
  LEXICO_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).ParseAll();
}

}  // namespace lexico::worker::jinja

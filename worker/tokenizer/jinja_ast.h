// The parsed form of a Jinja template.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/tokenizer/jinja_value.h"

namespace lexico::worker::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<const Expr>;

enum class ExprKind {
  kConst,    // constant
  kName,     // variable `name`
  kList,     // args
  kDict,     // args: key, value, key, value ...
  kAttr,     // args[0].name
  kIndex,    // args[0][args[1]]
  kSlice,    // args[0][args[1]:args[2]:args[3]], each but the first may be null
  kCall,     // args[0](args[1]..., named...)
  kFilter,   // args[0] | name(args[1]..., named...)
  kTest,     // args[0] is name(args[1]...); is not: wrapped in kNot
  kNot,      // not args[0]
  kAnd,      // args[0] and args[1]
  kOr,       // args[0] or args[1]
  kIf,       // args[0] if args[1] else args[2]; args[2] may be null
  kNegate,   // -args[0]
  kPlus,     // +args[0]
  kBinary,   // args[0] name args[1], name one of + - * / // % ** ~
  kCompare,  // args[0] names[0] args[1] names[1] args[2] ...
};

struct Expr {
  ExprKind kind;
  int line = 0;
  int height = 1;  // of the tree: evaluation recurses as deep
  std::string name;
  Value constant;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
  std::vector<std::string> names;
};

struct Stmt;
using Body = std::vector<std::unique_ptr<const Stmt>>;

enum class StmtKind {
  kText,      // text
  kOutput,    // {{ expr }}
  kIf,        // branches, else_body
  kFor,       // for names in expr if condition: body, else else_body
  kSet,       // set names = expr
  kSetAttr,   // set names[0].names[1] = expr
  kSetBlock,  // set names[0]: body, through the filters of expr (which may be null)
  kMacro,     // macro names[0](names[1]... = defaults): body
  kCall,      // call expr: body is caller()
  kFilter,    // filter expr: body
  kBlock,     // body as it is (generation)
  kBreak,
  kContinue,
};

// In the filter chains of kSetBlock and kFilter the innermost args[0] is this name: the text.
inline constexpr char kFilteredText[] = "(text)";

struct Stmt {
  StmtKind kind;
  int line = 0;
  std::string text;
  bool uses_loop = false;  // kFor: the variable `loop` is asked for
  std::vector<std::string> names;
  ExprPtr expr;
  ExprPtr condition;
  std::vector<ExprPtr> defaults;  // of the last parameters
  std::vector<std::pair<ExprPtr, Body>> branches;
  Body body;
  Body else_body;
};

// InvalidArgument with the line: not Jinja, or a tag that chat templates do not need (include,
// import, extends ...); nested deeper than kTemplateDepthMax.
absl::StatusOr<Body> Parse(std::string_view source);

}  // namespace lexico::worker::jinja

// Runs a parsed template once.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tokenizer/jinja_ast.h"
#include "worker/tokenizer/jinja_value.h"

namespace lexico::worker::jinja {

// Thread-compatible; one per rendering.
class Interpreter {
 public:
  // `variables` must outlive the interpreter.
  explicit Interpreter(const Dict& variables);
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  absl::StatusOr<std::string> Run(const Body& body);

 private:
  // What a statement does to the loop around it.
  enum class Flow { kNext, kBreak, kContinue };
  using FlowOr = absl::StatusOr<Flow>;
  // A scope sees the ones before it, down to a macro's, which sees the template's own (the first).
  struct Scope {
    Dict variables;
    bool is_macro = false;
  };

  FlowOr Execute(const Body& body);
  FlowOr ExecuteOne(const Stmt& stmt);
  FlowOr ExecuteFor(const Stmt& stmt);
  absl::StatusOr<List> LoopElements(const Stmt& stmt);
  absl::Status ExecuteSet(const Stmt& stmt);
  absl::Status ExecuteSetAttr(const Stmt& stmt);
  absl::Status ExecuteSetBlock(const Stmt& stmt);
  absl::Status ExecuteCall(const Stmt& stmt);
  absl::StatusOr<Value> CallMacro(const Stmt& macro, const Arguments& args);
  // The text of a body, instead of sending it to the output; through the filters, if any.
  absl::StatusOr<Value> Capture(const Body& body, const Expr* filters);
  absl::Status Bind(const std::vector<std::string>& names, const Value& value);
  absl::Status Output(std::string_view text);

  absl::StatusOr<Value> Evaluate(const Expr& expr);
  absl::StatusOr<Value> EvaluateNode(const Expr& expr);
  absl::StatusOr<Value> EvaluateLiteral(const Expr& expr);
  absl::StatusOr<Value> EvaluateLogic(const Expr& expr);
  absl::StatusOr<Value> EvaluateSubscript(const Expr& expr);
  absl::StatusOr<Value> EvaluateCompare(const Expr& expr);
  absl::StatusOr<Value> EvaluateCall(const Expr& expr, const Value* caller);
  absl::StatusOr<Arguments> EvaluateArguments(const Expr& expr);
  absl::Status Charge(const Value& value);
  Value LookUp(const std::string& name) const;

  const Dict& variables_;
  Budget budget_;
  Dict globals_;
  std::vector<Scope> scopes_;
  std::string* out_ = nullptr;
  int depth_ = 0;
};

}  // namespace lexico::worker::jinja

#include "worker/tokenizer/jinja_interpreter.h"

#include <fmt/format.h>

#include <utility>

#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/tokenizer/jinja.h"
#include "worker/tokenizer/jinja_builtins.h"

namespace lexico::worker::jinja {
namespace {

// Restores a value when a function ends.
template <typename T>
class Restore {
 public:
  Restore(T* place, T value) : place_(place), old_(std::exchange(*place, std::move(value))) {}
  ~Restore() { *place_ = std::move(old_); }
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

 private:
  T* place_;
  T old_;
};

// The line of the innermost statement, once.
absl::Status AtLine(const absl::Status& status, int line) {
  const std::string message(status.message());
  if (message.starts_with("template line ")) return status;
  return absl::Status(status.code(), fmt::format("template line {}: {}", line, message));
}

Value Number(size_t n) { return Value(static_cast<int64_t>(n)); }

// The variable `loop` in the round `index` over `list`.
Value LoopVariable(const List& list, size_t index, int depth) {
  auto loop = std::make_shared<Namespace>();
  Dict& attributes = loop->attributes;
  attributes.Set("index", Number(index + 1));
  attributes.Set("index0", Number(index));
  attributes.Set("revindex", Number(list.size() - index));
  attributes.Set("revindex0", Number(list.size() - index - 1));
  attributes.Set("first", Value(index == 0));
  attributes.Set("last", Value(index + 1 == list.size()));
  attributes.Set("length", Number(list.size()));
  attributes.Set("depth", Number(static_cast<size_t>(depth)));
  attributes.Set("depth0", Number(static_cast<size_t>(depth) - 1));
  if (index > 0) attributes.Set("previtem", list[index - 1]);
  if (index + 1 < list.size()) attributes.Set("nextitem", list[index + 1]);
  attributes.Set("cycle", Value(Function([index](const Arguments& args) -> absl::StatusOr<Value> {
                   if (args.positional.empty()) {
                     return absl::InvalidArgumentError("loop.cycle needs values");
                   }
                   return args.positional[index % args.positional.size()];
                 })));
  return Value(std::move(loop));
}

}  // namespace

absl::StatusOr<Template> Template::Parse(std::string_view source) {
  LEXICO_ASSIGN_OR_RETURN(Body body, jinja::Parse(source));
  return Template(std::move(body));
}

absl::StatusOr<std::string> Template::Render(const Dict& variables) const {
  return Interpreter(variables).Run(body_);
}

Interpreter::Interpreter(const Dict& variables)
    : variables_(variables), globals_(GlobalFunctions(&budget_)) {}

absl::StatusOr<std::string> Interpreter::Run(const Body& body) {
  std::string text;
  out_ = &text;
  scopes_.assign(1, Scope{});
  LEXICO_RETURN_IF_ERROR(Execute(body).status());
  return text;
}

absl::Status Interpreter::Output(std::string_view text) {
  LEXICO_RETURN_IF_ERROR(budget_.TakeBytes(text.size()));
  out_->append(text);
  return absl::OkStatus();
}

Interpreter::FlowOr Interpreter::Execute(const Body& body) {
  const Restore deeper(&depth_, depth_ + 1);
  if (depth_ > base::kTemplateDepthMax) {
    return absl::ResourceExhaustedError(
        fmt::format("blocks and calls nested deeper than {}", base::kTemplateDepthMax));
  }
  for (const auto& stmt : body) {
    LEXICO_RETURN_IF_ERROR(budget_.TakeSteps(1));
    const FlowOr flow = ExecuteOne(*stmt);
    if (!flow.ok()) return AtLine(flow.status(), stmt->line);
    if (*flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::FlowOr Interpreter::ExecuteOne(const Stmt& stmt) {
  switch (stmt.kind) {
    case StmtKind::kText:
      LEXICO_RETURN_IF_ERROR(Output(stmt.text));
      break;
    case StmtKind::kOutput: {
      LEXICO_ASSIGN_OR_RETURN(const Value value, Evaluate(*stmt.expr));
      LEXICO_RETURN_IF_ERROR(Output(value.ToText()));
      break;
    }
    case StmtKind::kIf:
      for (const auto& [condition, body] : stmt.branches) {
        LEXICO_ASSIGN_OR_RETURN(const Value value, Evaluate(*condition));
        if (value.Truthy()) return Execute(body);
      }
      return Execute(stmt.else_body);
    case StmtKind::kFor:
      return ExecuteFor(stmt);
    case StmtKind::kSet:
      LEXICO_RETURN_IF_ERROR(ExecuteSet(stmt));
      break;
    case StmtKind::kSetAttr:
      LEXICO_RETURN_IF_ERROR(ExecuteSetAttr(stmt));
      break;
    case StmtKind::kSetBlock:
      LEXICO_RETURN_IF_ERROR(ExecuteSetBlock(stmt));
      break;
    case StmtKind::kMacro:
      scopes_.back().variables.Set(
          stmt.names[0],
          Value(Function([this, &stmt](const Arguments& args) { return CallMacro(stmt, args); })));
      break;
    case StmtKind::kCall:
      LEXICO_RETURN_IF_ERROR(ExecuteCall(stmt));
      break;
    case StmtKind::kFilter: {
      LEXICO_ASSIGN_OR_RETURN(const Value text, Capture(stmt.body, stmt.expr.get()));
      LEXICO_RETURN_IF_ERROR(Output(text.ToText()));
      break;
    }
    case StmtKind::kBlock:
      return Execute(stmt.body);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::StatusOr<List> Interpreter::LoopElements(const Stmt& stmt) {
  LEXICO_ASSIGN_OR_RETURN(const Value iterable, Evaluate(*stmt.expr));
  LEXICO_ASSIGN_OR_RETURN(List elements, Iterate(iterable));
  LEXICO_RETURN_IF_ERROR(budget_.TakeSteps(elements.size()));
  if (stmt.condition == nullptr) return elements;
  List kept;
  for (Value& element : elements) {
    scopes_.emplace_back();
    absl::Status bound = Bind(stmt.names, element);
    auto passes = bound.ok() ? Evaluate(*stmt.condition) : absl::StatusOr<Value>(bound);
    scopes_.pop_back();
    LEXICO_RETURN_IF_ERROR(passes.status());
    if (passes->Truthy()) kept.push_back(std::move(element));
  }
  return kept;
}

Interpreter::FlowOr Interpreter::ExecuteFor(const Stmt& stmt) {
  LEXICO_ASSIGN_OR_RETURN(const List elements, LoopElements(stmt));
  if (elements.empty()) return Execute(stmt.else_body);
  const Value outer = LookUp("loop");
  const Value* outer_depth =
      outer.AsNamespace() != nullptr ? outer.AsNamespace()->attributes.Find("depth") : nullptr;
  const int depth =
      outer_depth != nullptr && outer_depth->AsInt() ? static_cast<int>(*outer_depth->AsInt()) : 0;
  for (size_t i = 0; i < elements.size(); ++i) {
    scopes_.emplace_back();  // what a round sets ends with it
    if (stmt.uses_loop) scopes_.back().variables.Set("loop", LoopVariable(elements, i, depth + 1));
    absl::Status bound = Bind(stmt.names, elements[i]);
    const FlowOr flow = bound.ok() ? Execute(stmt.body) : FlowOr(bound);
    scopes_.pop_back();
    LEXICO_RETURN_IF_ERROR(flow.status());
    if (*flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

absl::Status Interpreter::Bind(const std::vector<std::string>& names, const Value& value) {
  if (names.size() == 1) {
    scopes_.back().variables.Set(names[0], value);
    return absl::OkStatus();
  }
  LEXICO_ASSIGN_OR_RETURN(const List parts, Iterate(value));
  if (parts.size() != names.size()) {
    return absl::InvalidArgumentError(
        fmt::format("{} values for {} names", parts.size(), names.size()));
  }
  for (size_t i = 0; i < names.size(); ++i) scopes_.back().variables.Set(names[i], parts[i]);
  return absl::OkStatus();
}

absl::Status Interpreter::ExecuteSet(const Stmt& stmt) {
  LEXICO_ASSIGN_OR_RETURN(const Value value, Evaluate(*stmt.expr));
  return Bind(stmt.names, value);
}

absl::Status Interpreter::ExecuteSetAttr(const Stmt& stmt) {
  LEXICO_ASSIGN_OR_RETURN(const Value value, Evaluate(*stmt.expr));
  const Value target = LookUp(stmt.names[0]);
  if (target.AsNamespace() == nullptr) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is no namespace, so its attributes cannot be set", stmt.names[0]));
  }
  if (value.AsNamespace() != nullptr || value.AsFunction() != nullptr) {
    return absl::InvalidArgumentError("a namespace cannot hold namespaces or functions");
  }
  target.AsNamespace()->attributes.Set(stmt.names[1], value);
  return absl::OkStatus();
}

absl::Status Interpreter::ExecuteSetBlock(const Stmt& stmt) {
  LEXICO_ASSIGN_OR_RETURN(const Value text, Capture(stmt.body, stmt.expr.get()));
  scopes_.back().variables.Set(stmt.names[0], text);
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::Capture(const Body& body, const Expr* filters) {
  std::string text;
  {
    const Restore output(&out_, &text);
    scopes_.emplace_back();
    const FlowOr flow = Execute(body);
    scopes_.pop_back();
    LEXICO_RETURN_IF_ERROR(flow.status());
  }
  if (filters == nullptr) return Value(std::move(text));
  scopes_.emplace_back();
  scopes_.back().variables.Set(kFilteredText, Value(std::move(text)));
  auto filtered = Evaluate(*filters);
  scopes_.pop_back();
  return filtered;
}

absl::StatusOr<Value> Interpreter::CallMacro(const Stmt& macro, const Arguments& args) {
  const size_t n_parameters = macro.names.size() - 1;
  const size_t n_required = n_parameters - macro.defaults.size();
  if (args.positional.size() > n_parameters) {
    return absl::InvalidArgumentError(fmt::format("macro '{}' takes {} arguments, not {}",
                                                  macro.names[0], n_parameters,
                                                  args.positional.size()));
  }
  Scope scope{.variables = {}, .is_macro = true};
  scopes_.push_back(std::move(scope));
  absl::StatusOr<Value> text = Value();
  for (size_t i = 0; i < n_parameters && text.ok(); ++i) {
    const std::string& name = macro.names[i + 1];
    if (const Value* given = args.Get(i, name)) {
      scopes_.back().variables.Set(name, *given);
    } else if (i >= n_required) {
      text = Evaluate(*macro.defaults[i - n_required]);
      if (text.ok()) scopes_.back().variables.Set(name, *text);
    } else {
      scopes_.back().variables.Set(name, Value(Undefined{name}));
    }
  }
  if (const Value* caller = args.named.Find("caller")) {
    scopes_.back().variables.Set("caller", *caller);
  }
  if (text.ok()) text = Capture(macro.body, nullptr);
  scopes_.pop_back();
  return text;
}

absl::Status Interpreter::ExecuteCall(const Stmt& stmt) {
  // caller() runs the body where it stands: in the scopes of now.
  const Value caller(Function([this, &stmt, here = scopes_](const Arguments&) {
    const Restore scopes(&scopes_, here);
    return Capture(stmt.body, nullptr);
  }));
  LEXICO_ASSIGN_OR_RETURN(const Value text, EvaluateCall(*stmt.expr, &caller));
  return Output(text.ToText());
}

Value Interpreter::LookUp(const std::string& name) const {
  for (size_t i = scopes_.size(); i-- > 0;) {
    if (const Value* found = scopes_[i].variables.Find(name)) return *found;
    if (scopes_[i].is_macro) i = 1;  // next is the template's own scope
  }
  if (const Value* found = variables_.Find(name)) return *found;
  const Value* found = globals_.Find(name);
  return found != nullptr ? *found : Value(Undefined{name});
}

}  // namespace lexico::worker::jinja

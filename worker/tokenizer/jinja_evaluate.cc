// Expressions of the interpreter; statements are in jinja_interpreter.cc.
#include <fmt/format.h>

#include <utility>

#include "proto/base/check.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/tokenizer/jinja_builtins.h"
#include "worker/tokenizer/jinja_interpreter.h"

namespace lexico::worker::jinja {

// Counts what an operand costs to look through, so that cheap steps on huge values are no way
// around the limit on steps.
absl::Status Interpreter::Charge(const Value& value) {
  if (const std::string* text = value.AsString()) return budget_.TakeBytes(text->size());
  if (const List* list = value.AsList()) return budget_.TakeSteps(list->size());
  if (const Dict* dict = value.AsDict()) return budget_.TakeSteps(dict->items.size());
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::Evaluate(const Expr& expr) {
  LEXICO_RETURN_IF_ERROR(budget_.TakeSteps(1));
  if (++depth_ > base::kTemplateDepthMax) {
    --depth_;
    return absl::ResourceExhaustedError(
        fmt::format("blocks and calls nested deeper than {}", base::kTemplateDepthMax));
  }
  auto result = EvaluateNode(expr);
  --depth_;
  return result;
}

absl::StatusOr<Value> Interpreter::EvaluateNode(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kConst:
      return expr.constant;
    case ExprKind::kName:
      return LookUp(expr.name);
    case ExprKind::kList:
    case ExprKind::kDict:
      return EvaluateLiteral(expr);
    case ExprKind::kAttr: {
      LEXICO_ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.args[0]));
      return GetAttribute(object, expr.name);
    }
    case ExprKind::kIndex:
    case ExprKind::kSlice:
      return EvaluateSubscript(expr);
    case ExprKind::kCall:
      return EvaluateCall(expr, nullptr);
    case ExprKind::kFilter:
    case ExprKind::kTest: {
      LEXICO_ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.args[0]));
      LEXICO_ASSIGN_OR_RETURN(const Arguments args, EvaluateArguments(expr));
      LEXICO_RETURN_IF_ERROR(Charge(value));
      if (expr.kind == ExprKind::kFilter) return ApplyFilter(expr.name, value, args, &budget_);
      LEXICO_ASSIGN_OR_RETURN(const bool passes, ApplyTest(expr.name, value, args));
      return Value(passes);
    }
    case ExprKind::kNot:
    case ExprKind::kAnd:
    case ExprKind::kOr:
    case ExprKind::kIf:
      return EvaluateLogic(expr);
    case ExprKind::kNegate: {
      LEXICO_ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.args[0]));
      return ApplyBinary("-", Value(int64_t{0}), value, &budget_);
    }
    case ExprKind::kPlus: {
      LEXICO_ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.args[0]));
      return ApplyBinary("+", Value(int64_t{0}), value, &budget_);
    }
    case ExprKind::kBinary: {
      LEXICO_ASSIGN_OR_RETURN(const Value left, Evaluate(*expr.args[0]));
      LEXICO_ASSIGN_OR_RETURN(const Value right, Evaluate(*expr.args[1]));
      return ApplyBinary(expr.name, left, right, &budget_);
    }
    case ExprKind::kCompare:
      return EvaluateCompare(expr);
  }
  LEXICO_UNREACHABLE();
}

absl::StatusOr<Value> Interpreter::EvaluateLiteral(const Expr& expr) {
  List elements;
  for (const ExprPtr& arg : expr.args) {
    LEXICO_ASSIGN_OR_RETURN(Value element, Evaluate(*arg));
    elements.push_back(std::move(element));
  }
  if (expr.kind == ExprKind::kList) return Value::MakeList(std::move(elements));
  Dict dict;
  for (size_t i = 0; i < elements.size(); i += 2) {
    if (elements[i].AsString() == nullptr) {
      return absl::InvalidArgumentError("the keys of a dict must be strings");
    }
    dict.Set(*elements[i].AsString(), elements[i + 1]);
  }
  return Value::MakeDict(std::move(dict));
}

// Values, not bools, come out of and / or, as in Python.
absl::StatusOr<Value> Interpreter::EvaluateLogic(const Expr& expr) {
  const size_t first = expr.kind == ExprKind::kIf ? 1 : 0;
  LEXICO_ASSIGN_OR_RETURN(Value value, Evaluate(*expr.args[first]));
  switch (expr.kind) {
    case ExprKind::kNot:
      return Value(!value.Truthy());
    case ExprKind::kAnd:
      return value.Truthy() ? Evaluate(*expr.args[1]) : value;
    case ExprKind::kOr:
      return value.Truthy() ? value : Evaluate(*expr.args[1]);
    default:
      break;
  }
  if (value.Truthy()) return Evaluate(*expr.args[0]);
  if (expr.args[2] != nullptr) return Evaluate(*expr.args[2]);
  return Value(Undefined{"the value of an if without else"});
}

absl::StatusOr<Value> Interpreter::EvaluateSubscript(const Expr& expr) {
  LEXICO_ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.args[0]));
  Value parts[3];
  const Value* given[3] = {};
  for (size_t i = 1; i < expr.args.size(); ++i) {
    if (expr.args[i] == nullptr) continue;
    LEXICO_ASSIGN_OR_RETURN(parts[i - 1], Evaluate(*expr.args[i]));
    given[i - 1] = &parts[i - 1];
  }
  if (expr.kind == ExprKind::kIndex) {
    if (object.AsString() != nullptr) LEXICO_RETURN_IF_ERROR(Charge(object));
    return GetItem(object, parts[0]);
  }
  LEXICO_RETURN_IF_ERROR(Charge(object));
  return Slice(object, given[0], given[1], given[2]);
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expr& expr) {
  LEXICO_ASSIGN_OR_RETURN(Value left, Evaluate(*expr.args[0]));
  for (size_t i = 0; i < expr.names.size(); ++i) {
    LEXICO_ASSIGN_OR_RETURN(Value right, Evaluate(*expr.args[i + 1]));
    LEXICO_RETURN_IF_ERROR(Charge(left));
    LEXICO_RETURN_IF_ERROR(Charge(right));
    LEXICO_ASSIGN_OR_RETURN(const bool holds, ApplyComparison(expr.names[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const Expr& expr) {
  Arguments args;
  for (size_t i = 1; i < expr.args.size(); ++i) {
    LEXICO_ASSIGN_OR_RETURN(Value value, Evaluate(*expr.args[i]));
    args.positional.push_back(std::move(value));
  }
  for (const auto& [name, arg] : expr.named) {
    LEXICO_ASSIGN_OR_RETURN(Value value, Evaluate(*arg));
    args.named.Set(name, std::move(value));
  }
  return args;
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expr& expr, const Value* caller) {
  const Expr& callee = *expr.args[0];
  Value function;
  if (callee.kind == ExprKind::kAttr) {
    LEXICO_ASSIGN_OR_RETURN(const Value object, Evaluate(*callee.args[0]));
    if (object.AsNamespace() == nullptr) {
      LEXICO_ASSIGN_OR_RETURN(const Arguments args, EvaluateArguments(expr));
      LEXICO_RETURN_IF_ERROR(Charge(object));
      return CallMethod(object, callee.name, args, &budget_);
    }
    LEXICO_ASSIGN_OR_RETURN(function, GetAttribute(object, callee.name));
  } else {
    LEXICO_ASSIGN_OR_RETURN(function, Evaluate(callee));
  }
  if (function.AsFunction() == nullptr) {
    const Undefined* undefined = function.AsUndefined();
    return absl::InvalidArgumentError(
        undefined != nullptr
            ? fmt::format("'{}' is undefined, so it cannot be called", undefined->name)
            : fmt::format("{} cannot be called", function.TypeName()));
  }
  LEXICO_ASSIGN_OR_RETURN(Arguments args, EvaluateArguments(expr));
  if (caller != nullptr) args.named.Set("caller", *caller);
  return (*function.AsFunction())(args);
}

}  // namespace lexico::worker::jinja

// Operators, subscripts and iteration of jinja_builtins.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "proto/base/status.h"
#include "worker/tokenizer/jinja_builtins.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker::jinja {
namespace {

// Bools count as integers, as in Python.
std::optional<int64_t> IntOf(const Value& value) {
  if (const bool* flag = value.AsBool()) return *flag ? 1 : 0;
  if (const int64_t* number = value.AsInt()) return *number;
  return std::nullopt;
}
bool IsNumeric(const Value& value) { return value.IsNumber() || value.AsBool() != nullptr; }

absl::Status WrongTypes(const std::string& op, const Value& left, const Value& right) {
  const auto describe = [](const Value& value) -> std::string {
    if (const Undefined* undefined = value.AsUndefined()) {
      return fmt::format("undefined '{}'", undefined->name);
    }
    return std::string(value.TypeName());
  };
  return absl::InvalidArgumentError(
      fmt::format("{} {} {} is not defined", describe(left), op, describe(right)));
}

absl::StatusOr<Value> IntArithmetic(const std::string& op, int64_t left, int64_t right) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(left, right, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(left, right, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(left, right, &result);
  } else {  // // and %, which round towards minus infinity
    if (right == 0) return absl::InvalidArgumentError("division by zero");
    if (right == -1) {
      overflow = op == "//" && __builtin_sub_overflow(int64_t{0}, left, &result);
    } else {
      const int64_t remainder = left % right;
      const bool adjust = remainder != 0 && (remainder < 0) != (right < 0);
      result = op == "//" ? left / right - (adjust ? 1 : 0) : remainder + (adjust ? right : 0);
    }
  }
  if (overflow) return absl::InvalidArgumentError(fmt::format("integer overflow in '{}'", op));
  return Value(result);
}

absl::StatusOr<Value> Arithmetic(const std::string& op, const Value& left, const Value& right) {
  const auto left_int = IntOf(left);
  const auto right_int = IntOf(right);
  const double a = left.Number();
  const double b = right.Number();
  if (op == "**") {
    const double power = std::pow(a, b);
    if (!left_int || !right_int || *right_int < 0) return Value(power);
    if (std::abs(power) > 9e15) return absl::InvalidArgumentError("integer overflow in '**'");
    return Value(static_cast<int64_t>(power));
  }
  if (op == "/") {
    if (b == 0) return absl::InvalidArgumentError("division by zero");
    return Value(a / b);
  }
  if (left_int && right_int) return IntArithmetic(op, *left_int, *right_int);
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (b == 0) return absl::InvalidArgumentError("division by zero");
  return Value(op == "//" ? std::floor(a / b) : a - b * std::floor(a / b));
}

absl::StatusOr<Value> Repeat(const std::string& text, int64_t count, Budget* budget) {
  const auto n = static_cast<size_t>(std::max<int64_t>(count, 0));
  if (n > 0 && text.size() > SIZE_MAX / n) return budget->TakeBytes(SIZE_MAX / 2);
  LEXICO_RETURN_IF_ERROR(budget->TakeBytes(text.size() * n));
  LEXICO_RETURN_IF_ERROR(budget->TakeSteps(text.empty() ? 0 : n));
  std::string out;
  for (size_t i = 0; i < n && !text.empty(); ++i) out += text;
  return Value(std::move(out));
}

std::vector<std::string> Characters(const std::string& text) {
  std::vector<std::string> characters;
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    NextChar(text, &end);
    characters.push_back(text.substr(begin, end - begin));
  }
  return characters;
}

absl::StatusOr<bool> Contains(const Value& container, const Value& element) {
  if (const std::string* text = container.AsString()) {
    if (element.AsString() == nullptr) return WrongTypes("in", element, container);
    return text->find(*element.AsString()) != std::string::npos;
  }
  if (const Dict* dict = container.AsDict()) {
    return element.AsString() != nullptr && dict->Find(*element.AsString()) != nullptr;
  }
  if (const List* list = container.AsList()) {
    return std::ranges::any_of(*list, [&](const Value& v) { return v.Equals(element); });
  }
  if (container.IsUndefined()) return false;
  return WrongTypes("in", element, container);
}

// The elements of [start:stop:step] of a sequence of n, as Python counts.
absl::StatusOr<std::vector<size_t>> SliceIndices(int64_t n, const Value* start, const Value* stop,
                                                 const Value* step) {
  const auto read = [](const Value* value, int64_t otherwise) -> absl::StatusOr<int64_t> {
    if (value == nullptr || value->IsNone()) return otherwise;
    if (const auto number = IntOf(*value)) return *number;
    return absl::InvalidArgumentError("the parts of a slice must be integers");
  };
  LEXICO_ASSIGN_OR_RETURN(const int64_t by, read(step, 1));
  if (by == 0) return absl::InvalidArgumentError("the step of a slice must not be 0");
  const int64_t low = by > 0 ? 0 : -1;
  const int64_t high = by > 0 ? n : n - 1;
  const auto clamp = [&](int64_t at) { return std::clamp(at < 0 ? at + n : at, low, high); };
  const bool has_start = start != nullptr && !start->IsNone();
  const bool has_stop = stop != nullptr && !stop->IsNone();
  LEXICO_ASSIGN_OR_RETURN(int64_t from, read(start, 0));
  LEXICO_ASSIGN_OR_RETURN(int64_t to, read(stop, 0));
  from = has_start ? clamp(from) : by > 0 ? low : high;
  to = has_stop ? clamp(to) : by > 0 ? high : low;
  std::vector<size_t> indices;
  for (int64_t i = from; by > 0 ? i < to : i > to;) {
    indices.push_back(static_cast<size_t>(i));
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  return indices;
}

}  // namespace

absl::StatusOr<Value> ApplyBinary(const std::string& op, const Value& left, const Value& right,
                                  Budget* budget) {
  if (op == "~") {
    std::string text = left.ToText() + right.ToText();
    LEXICO_RETURN_IF_ERROR(budget->TakeBytes(text.size()));
    return Value(std::move(text));
  }
  if (IsNumeric(left) && IsNumeric(right)) return Arithmetic(op, left, right);
  const std::string* text = left.AsString();
  if (op == "+" && text != nullptr && right.AsString() != nullptr) {
    LEXICO_RETURN_IF_ERROR(budget->TakeBytes(text->size() + right.AsString()->size()));
    return Value(*text + *right.AsString());
  }
  if (op == "+" && left.AsList() != nullptr && right.AsList() != nullptr) {
    List list = *left.AsList();
    list.insert(list.end(), right.AsList()->begin(), right.AsList()->end());
    LEXICO_RETURN_IF_ERROR(budget->TakeSteps(list.size()));
    return Value::MakeList(std::move(list));
  }
  if (op == "*" && text != nullptr && IntOf(right)) return Repeat(*text, *IntOf(right), budget);
  if (op == "*" && right.AsString() != nullptr && IntOf(left)) {
    return Repeat(*right.AsString(), *IntOf(left), budget);
  }
  return WrongTypes(op, left, right);
}

absl::StatusOr<bool> ApplyComparison(const std::string& op, const Value& left, const Value& right) {
  if (op == "==") return left.Equals(right);
  if (op == "!=") return !left.Equals(right);
  if (op == "in") return Contains(right, left);
  if (op == "not in") {
    LEXICO_ASSIGN_OR_RETURN(const bool contains, Contains(right, left));
    return !contains;
  }
  const auto order = left.Compare(right);
  if (!order.ok()) return WrongTypes(op, left, right);
  if (op == "<") return *order < 0;
  if (op == "<=") return *order <= 0;
  if (op == ">") return *order > 0;
  return *order >= 0;
}

absl::StatusOr<Value> Slice(const Value& value, const Value* start, const Value* stop,
                            const Value* step) {
  if (const std::string* text = value.AsString()) {
    const auto characters = Characters(*text);
    LEXICO_ASSIGN_OR_RETURN(
        const auto indices,
        SliceIndices(static_cast<int64_t>(characters.size()), start, stop, step));
    std::string out;
    for (const size_t i : indices) out += characters[i];
    return Value(std::move(out));
  }
  if (const List* list = value.AsList()) {
    LEXICO_ASSIGN_OR_RETURN(const auto indices,
                            SliceIndices(static_cast<int64_t>(list->size()), start, stop, step));
    List out;
    for (const size_t i : indices) out.push_back((*list)[i]);
    return Value::MakeList(std::move(out));
  }
  return absl::InvalidArgumentError(fmt::format("{} cannot be sliced", value.TypeName()));
}

absl::StatusOr<Value> GetItem(const Value& value, const Value& index) {
  if (const std::string* key = index.AsString()) return GetAttribute(value, *key);
  const auto number = IntOf(index);
  const Value missing(Undefined{index.ToText()});
  if (value.IsUndefined()) return GetAttribute(value, index.ToText());
  if (!number.has_value()) return missing;
  const auto at = [&](size_t size) -> std::optional<size_t> {
    const auto n = static_cast<int64_t>(size);
    const int64_t i = *number < 0 ? *number + n : *number;
    return i >= 0 && i < n ? std::optional(static_cast<size_t>(i)) : std::nullopt;
  };
  if (const List* list = value.AsList()) {
    const auto i = at(list->size());
    return i.has_value() ? (*list)[*i] : missing;
  }
  if (const std::string* text = value.AsString()) {
    const auto characters = Characters(*text);
    const auto i = at(characters.size());
    return i.has_value() ? Value(characters[*i]) : missing;
  }
  return missing;
}

absl::StatusOr<Value> GetAttribute(const Value& value, const std::string& name) {
  if (const Undefined* undefined = value.AsUndefined()) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is undefined, so it has no '{}'", undefined->name, name));
  }
  const Value* found = nullptr;
  if (const Dict* dict = value.AsDict()) found = dict->Find(name);
  if (const Namespace* ns = value.AsNamespace()) found = ns->attributes.Find(name);
  return found != nullptr ? *found : Value(Undefined{name});
}

absl::StatusOr<List> Iterate(const Value& value) {
  List elements;
  if (const List* list = value.AsList()) return *list;
  if (const Dict* dict = value.AsDict()) {
    for (const auto& [key, element] : dict->items) elements.push_back(Value(key));
    return elements;
  }
  if (const std::string* text = value.AsString()) {
    for (std::string& c : Characters(*text)) elements.push_back(Value(std::move(c)));
    return elements;
  }
  if (value.IsUndefined()) return elements;
  return absl::InvalidArgumentError(fmt::format("{} cannot be iterated", value.TypeName()));
}

}  // namespace lexico::worker::jinja

// Filters, tests, methods and operators of the Jinja interpreter: pure functions of their
// arguments, as Jinja2 3.1 and Python define them for the types of jinja_value.h.
//
// All return InvalidArgument for an unknown name or a value of the wrong type, and
// ResourceExhausted when the result would not fit the budget (checked before it is made).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/tokenizer/jinja_value.h"

namespace lexico::worker::jinja {

// value | name(args...)
absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& value,
                                  const Arguments& args, Budget* budget);

// value is name(args...)
absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& value, const Arguments& args);

// value.name(args...) for methods of str, dict and list.
absl::StatusOr<Value> CallMethod(const Value& value, const std::string& name, const Arguments& args,
                                 Budget* budget);

// left op right for + - * / // % ** ~
absl::StatusOr<Value> ApplyBinary(const std::string& op, const Value& left, const Value& right,
                                  Budget* budget);

// left op right for == != < <= > >= in "not in"
absl::StatusOr<bool> ApplyComparison(const std::string& op, const Value& left, const Value& right);

// value[start:stop:step] of a str (characters) or list; null parts are left out.
absl::StatusOr<Value> Slice(const Value& value, const Value* start, const Value* stop,
                            const Value* step);

// value[index] and value.name; undefined when there is no such element.
absl::StatusOr<Value> GetItem(const Value& value, const Value& index);
absl::StatusOr<Value> GetAttribute(const Value& value, const std::string& name);

// What a loop sees: elements, keys, or characters. Nothing for an undefined value.
absl::StatusOr<List> Iterate(const Value& value);

// range, namespace and dict, raise_exception, strftime_now (UTC): what templates may call.
Dict GlobalFunctions(Budget* budget);

}  // namespace lexico::worker::jinja

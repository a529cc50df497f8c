// Values of the Jinja interpreter: what Python values are to Jinja2, as far as chat templates use
// them. Copying is cheap (containers are shared, and immutable except namespaces).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace lexico::worker::jinja {

class Value;
class Budget;
using List = std::vector<Value>;

// Keys are strings, in the order of insertion. Dictionaries of templates are small: look-up scans.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;

  const Value* Find(std::string_view key) const;
  void Set(std::string_view key, Value value);
};

struct None {};
// A name or attribute that does not exist; prints as nothing, and any other use is an error.
struct Undefined {
  std::string name;
};
// namespace(...): the one value that `set` may change from inside a loop.
struct Namespace {
  Dict attributes;
};

// Arguments of a call: f(1, 2, name=3).
struct Arguments {
  List positional;
  Dict named;

  // The argument at `index` or of this name; null when not given.
  const Value* Get(size_t index, std::string_view name) const;
};
using Function = std::function<absl::StatusOr<Value>(const Arguments&)>;

class Value {
 public:
  Value() : data_(Undefined{}) {}
  explicit Value(None) : data_(None{}) {}
  explicit Value(Undefined undefined) : data_(std::move(undefined)) {}
  explicit Value(bool value) : data_(value) {}
  explicit Value(int64_t value) : data_(value) {}
  explicit Value(double value) : data_(value) {}
  explicit Value(std::string text) : data_(std::make_shared<const std::string>(std::move(text))) {}
  explicit Value(const char*) = delete;  // would be a bool
  explicit Value(std::shared_ptr<Namespace> ns) : data_(std::move(ns)) {}
  explicit Value(Function function)
      : data_(std::make_shared<const Function>(std::move(function))) {}

  // ResourceExhausted: nested deeper than kTemplateDepthMax (which also keeps destructors from
  // recursing without bound), or a namespace or function inside (which could make a cycle).
  static absl::StatusOr<Value> MakeList(List list);
  static absl::StatusOr<Value> MakeDict(Dict dict);

  bool IsUndefined() const { return std::holds_alternative<Undefined>(data_); }
  bool IsNone() const { return std::holds_alternative<None>(data_); }
  bool IsNumber() const { return AsDouble() != nullptr || AsInt() != nullptr; }
  const bool* AsBool() const { return std::get_if<bool>(&data_); }
  const int64_t* AsInt() const { return std::get_if<int64_t>(&data_); }
  const double* AsDouble() const { return std::get_if<double>(&data_); }
  // Null when it is of another type.
  const std::string* AsString() const;
  const List* AsList() const;
  const Dict* AsDict() const;
  Namespace* AsNamespace() const;
  const Function* AsFunction() const;
  const Undefined* AsUndefined() const { return std::get_if<Undefined>(&data_); }

  // The type's name for messages, as Python says it.
  std::string_view TypeName() const;
  bool Truthy() const;
  // Python's str() and repr().
  std::string ToText() const;
  std::string Repr() const;
  // As json.dumps(value, ensure_ascii=False, indent=...); indent < 0: on one line.
  absl::StatusOr<std::string> ToJson(int indent) const;

  // Python's ==: numbers by value, containers by elements.
  bool Equals(const Value& other) const;
  // Negative, 0 or positive; InvalidArgument when the two have no order.
  absl::StatusOr<int> Compare(const Value& other) const;
  // The value of a number or bool as a double. REQUIRES: one of them.
  double Number() const;

 private:
  struct ListBox {
    List list;
    int depth;
  };
  struct DictBox {
    Dict dict;
    int depth;
  };
  using Data =
      std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>,
                   std::shared_ptr<const ListBox>, std::shared_ptr<const DictBox>,
                   std::shared_ptr<Namespace>, std::shared_ptr<const Function>>;

  static absl::StatusOr<int> DepthOf(const Value& element);
  absl::Status AppendJson(int indent, int level, std::string* out) const;

  Data data_;
};

// What one rendering may still use up. Thread-compatible.
class Budget {
 public:
  // ResourceExhausted when more than kTemplateStepsMax or kTemplateTextBytesMax were taken.
  absl::Status TakeSteps(size_t n);
  absl::Status TakeBytes(size_t n);

 private:
  size_t n_steps_ = 0;
  size_t n_bytes_ = 0;
};

}  // namespace lexico::worker::jinja

#include "worker/tokenizer/jinja_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "proto/base/limits.h"
#include "proto/base/status.h"

namespace lexico::worker::jinja {
namespace {

// Python's repr of a float: the shortest digits, and always a point or exponent.
std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string QuotedText(std::string_view text) {
  const char quote =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"'
                                                                                            : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out.push_back(c);
    }
  }
  out.push_back(quote);
  return out;
}

void AppendJsonString(std::string_view text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\b':
        *out += "\\b";
        break;
      case '\f':
        *out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          *out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

void AppendNewline(int indent, int level, std::string* out) {
  if (indent < 0) return;
  out->push_back('\n');
  out->append(static_cast<size_t>(indent) * static_cast<size_t>(level), ' ');
}

}  // namespace

const Value* Dict::Find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name == key) return &value;
  }
  return nullptr;
}

void Dict::Set(std::string_view key, Value value) {
  for (auto& [name, old] : items) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(key, std::move(value));
}

const Value* Arguments::Get(size_t index, std::string_view name) const {
  return index < positional.size() ? &positional[index] : named.Find(name);
}

absl::StatusOr<int> Value::DepthOf(const Value& element) {
  int depth = 1;
  if (const auto* list = std::get_if<std::shared_ptr<const ListBox>>(&element.data_)) {
    depth = (*list)->depth + 1;
  } else if (const auto* dict = std::get_if<std::shared_ptr<const DictBox>>(&element.data_)) {
    depth = (*dict)->depth + 1;
  } else if (element.AsNamespace() != nullptr || element.AsFunction() != nullptr) {
    return absl::InvalidArgumentError(
        fmt::format("a {} cannot be an element of another value", element.TypeName()));
  }
  if (depth > base::kTemplateDepthMax) {
    return absl::ResourceExhaustedError(
        fmt::format("values nested deeper than {}", base::kTemplateDepthMax));
  }
  return depth;
}

absl::StatusOr<Value> Value::MakeList(List list) {
  int depth = 1;
  for (const Value& element : list) {
    LEXICO_ASSIGN_OR_RETURN(const int below, DepthOf(element));
    depth = std::max(depth, below);
  }
  Value value;
  value.data_ = std::make_shared<const ListBox>(ListBox{std::move(list), depth});
  return value;
}

absl::StatusOr<Value> Value::MakeDict(Dict dict) {
  int depth = 1;
  for (const auto& [key, element] : dict.items) {
    LEXICO_ASSIGN_OR_RETURN(const int below, DepthOf(element));
    depth = std::max(depth, below);
  }
  Value value;
  value.data_ = std::make_shared<const DictBox>(DictBox{std::move(dict), depth});
  return value;
}

const std::string* Value::AsString() const {
  const auto* text = std::get_if<std::shared_ptr<const std::string>>(&data_);
  return text != nullptr ? text->get() : nullptr;
}

const List* Value::AsList() const {
  const auto* box = std::get_if<std::shared_ptr<const ListBox>>(&data_);
  return box != nullptr ? &(*box)->list : nullptr;
}

const Dict* Value::AsDict() const {
  const auto* box = std::get_if<std::shared_ptr<const DictBox>>(&data_);
  return box != nullptr ? &(*box)->dict : nullptr;
}

Namespace* Value::AsNamespace() const {
  const auto* ns = std::get_if<std::shared_ptr<Namespace>>(&data_);
  return ns != nullptr ? ns->get() : nullptr;
}

const Function* Value::AsFunction() const {
  const auto* function = std::get_if<std::shared_ptr<const Function>>(&data_);
  return function != nullptr ? function->get() : nullptr;
}

std::string_view Value::TypeName() const {
  constexpr std::string_view kNames[] = {"undefined", "None", "bool", "int",       "float",
                                         "str",       "list", "dict", "namespace", "function"};
  return kNames[data_.index()];
}

bool Value::Truthy() const {
  if (const bool* value = AsBool()) return *value;
  if (const int64_t* value = AsInt()) return *value != 0;
  if (const double* value = AsDouble()) return *value != 0;
  if (const std::string* value = AsString()) return !value->empty();
  if (const List* value = AsList()) return !value->empty();
  if (const Dict* value = AsDict()) return !value->items.empty();
  return !IsUndefined() && !IsNone();
}

double Value::Number() const {
  if (const bool* value = AsBool()) return *value ? 1 : 0;
  if (const int64_t* value = AsInt()) return static_cast<double>(*value);
  return *AsDouble();
}

std::string Value::ToText() const {
  if (const std::string* text = AsString()) return *text;
  return IsUndefined() ? "" : Repr();
}

std::string Value::Repr() const {
  if (const bool* value = AsBool()) return *value ? "True" : "False";
  if (const int64_t* value = AsInt()) return fmt::format("{}", *value);
  if (const double* value = AsDouble()) return FloatText(*value);
  if (const std::string* value = AsString()) return QuotedText(*value);
  if (const List* list = AsList()) {
    std::string out = "[";
    for (const Value& element : *list) out += (out.size() > 1 ? ", " : "") + element.Repr();
    return out + "]";
  }
  if (const Dict* dict = AsDict()) {
    std::string out = "{";
    for (const auto& [key, element] : dict->items) {
      out += (out.size() > 1 ? ", " : "") + QuotedText(key) + ": " + element.Repr();
    }
    return out + "}";
  }
  return IsUndefined() ? "Undefined" : std::string(TypeName());
}

absl::StatusOr<std::string> Value::ToJson(int indent) const {
  std::string out;
  LEXICO_RETURN_IF_ERROR(AppendJson(indent, 0, &out));
  return out;
}

absl::Status Value::AppendJson(int indent, int level, std::string* out) const {
  const std::string_view separator = indent < 0 ? ", " : ",";
  if (const bool* value = AsBool()) {
    *out += *value ? "true" : "false";
  } else if (IsNone()) {
    *out += "null";
  } else if (IsNumber()) {
    *out += Repr();
  } else if (const std::string* text = AsString()) {
    AppendJsonString(*text, out);
  } else if (const List* list = AsList()) {
    out->push_back('[');
    for (size_t i = 0; i < list->size(); ++i) {
      if (i > 0) *out += separator;
      AppendNewline(indent, level + 1, out);
      LEXICO_RETURN_IF_ERROR((*list)[i].AppendJson(indent, level + 1, out));
    }
    if (!list->empty()) AppendNewline(indent, level, out);
    out->push_back(']');
  } else if (const Dict* dict = AsDict()) {
    out->push_back('{');
    for (size_t i = 0; i < dict->items.size(); ++i) {
      if (i > 0) *out += separator;
      AppendNewline(indent, level + 1, out);
      AppendJsonString(dict->items[i].first, out);
      *out += ": ";
      LEXICO_RETURN_IF_ERROR(dict->items[i].second.AppendJson(indent, level + 1, out));
    }
    if (!dict->items.empty()) AppendNewline(indent, level, out);
    out->push_back('}');
  } else {
    return absl::InvalidArgumentError(fmt::format("{} cannot be written as JSON", TypeName()));
  }
  return absl::OkStatus();
}

bool Value::Equals(const Value& other) const {
  const auto is_numeric = [](const Value& v) { return v.IsNumber() || v.AsBool() != nullptr; };
  if (AsInt() != nullptr && other.AsInt() != nullptr) return *AsInt() == *other.AsInt();
  if (is_numeric(*this) && is_numeric(other)) return Number() == other.Number();
  if (data_.index() != other.data_.index()) return false;
  if (const std::string* text = AsString()) return *text == *other.AsString();
  if (const List* list = AsList()) {
    return std::ranges::equal(*list, *other.AsList(),
                              [](const Value& a, const Value& b) { return a.Equals(b); });
  }
  if (const Dict* dict = AsDict()) {
    return dict->items.size() == other.AsDict()->items.size() &&
           std::ranges::all_of(dict->items, [&](const auto& item) {
             const Value* found = other.AsDict()->Find(item.first);
             return found != nullptr && item.second.Equals(*found);
           });
  }
  if (AsNamespace() != nullptr) return AsNamespace() == other.AsNamespace();
  if (AsFunction() != nullptr) return AsFunction() == other.AsFunction();
  return true;  // None, or two undefined values
}

absl::StatusOr<int> Value::Compare(const Value& other) const {
  const auto is_numeric = [](const Value& v) { return v.IsNumber() || v.AsBool() != nullptr; };
  if (is_numeric(*this) && is_numeric(other)) {
    const double a = Number();
    const double b = other.Number();
    return a < b ? -1 : a > b ? 1 : 0;
  }
  if (AsString() != nullptr && other.AsString() != nullptr) {
    const int order = AsString()->compare(*other.AsString());  // UTF-8 sorts as code points
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  return absl::InvalidArgumentError(
      fmt::format("{} and {} cannot be ordered", TypeName(), other.TypeName()));
}

absl::Status Budget::TakeSteps(size_t n) {
  n_steps_ += n;
  if (n_steps_ <= static_cast<size_t>(base::kTemplateStepsMax)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("the template takes more than {} steps", base::kTemplateStepsMax));
}

absl::Status Budget::TakeBytes(size_t n) {
  n_bytes_ += n;
  if (n_bytes_ <= base::kTemplateTextBytesMax) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("the template makes more than {} bytes of text", base::kTemplateTextBytesMax));
}

}  // namespace lexico::worker::jinja

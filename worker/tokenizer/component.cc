#include "worker/tokenizer/component.h"

#include "proto/base/status.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {
const nlohmann::json kNull;
}

const nlohmann::json* Component::Find(const char* field) const {
  if (!value_->is_object()) return &kNull;
  const auto it = value_->find(field);
  return it == value_->end() ? &kNull : &*it;
}

absl::Status Component::WrongField(const char* field, std::string_view expected) const {
  const nlohmann::json* value = Find(field);
  return Error(fmt::format("'{}' must be {}, it is {}", field, expected,
                           value->is_null() ? "missing" : value->type_name()));
}

absl::StatusOr<std::string> Component::String(const char* field) const {
  const nlohmann::json* value = Find(field);
  if (!value->is_string()) return WrongField(field, "a string");
  return value->get<std::string>();
}

absl::StatusOr<std::string> Component::String(const char* field, std::string_view otherwise) const {
  if (Find(field)->is_null()) return std::string(otherwise);
  return String(field);
}

absl::StatusOr<char32_t> Component::Char(const char* field) const {
  LEXICO_ASSIGN_OR_RETURN(const std::string text, String(field));
  if (text.empty() || Utf8Length(text[0]) != text.size()) {
    return WrongField(field, "one character");
  }
  size_t offset = 0;
  return NextChar(text, &offset);
}

absl::StatusOr<bool> Component::Bool(const char* field) const {
  const nlohmann::json* value = Find(field);
  if (!value->is_boolean()) return WrongField(field, "true or false");
  return value->get<bool>();
}

absl::StatusOr<bool> Component::Bool(const char* field, bool otherwise) const {
  if (Find(field)->is_null()) return otherwise;
  return Bool(field);
}

absl::StatusOr<int64_t> Component::Int(const char* field, int64_t min, int64_t max) const {
  const nlohmann::json* value = Find(field);
  const bool fits = value->is_number_integer() &&
                    (!value->is_number_unsigned() || value->get<uint64_t>() <= INT64_MAX);
  if (!fits || value->get<int64_t>() < min || value->get<int64_t>() > max) {
    return WrongField(field, fmt::format("a whole number from {} to {}", min, max));
  }
  return value->get<int64_t>();
}

absl::StatusOr<std::vector<Component>> Component::List(const char* field) const {
  const nlohmann::json* value = Find(field);
  if (!value->is_array()) return WrongField(field, "an array");
  std::vector<Component> list;
  list.reserve(value->size());
  for (size_t i = 0; i < value->size(); ++i) {
    list.emplace_back(&(*value)[i], fmt::format("{}.{}[{}]", path_, field, i));
  }
  return list;
}

Component Component::Field(const char* field) const {
  return Component(Find(field), path_.empty() ? field : fmt::format("{}.{}", path_, field));
}

absl::StatusOr<PatternSpec> ReadPattern(const Component& owner) {
  const Component pattern = owner.Field("pattern");
  const bool is_regex = pattern.value().is_object() && pattern.value().contains("Regex");
  LEXICO_ASSIGN_OR_RETURN(std::string text, pattern.String(is_regex ? "Regex" : "String"));
  return PatternSpec{is_regex, std::move(text)};
}

}  // namespace lexico::worker

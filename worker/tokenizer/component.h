// Reading one component of a tokenizer.json: typed fields, and errors that say where they are.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lexico::worker {

// A JSON value and its path in the file ("pre_tokenizer.pretokenizers[1]"). Borrows the value.
//
// The getters return InvalidArgument with the path when the field is missing or of another type; a
// getter with a default takes a missing field or null for the default.
class Component {
 public:
  Component(const nlohmann::json* value, std::string path) : value_(value), path_(path) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& path() const { return path_; }
  bool IsNull() const { return value_->is_null(); }

  // The "type" of a component object.
  absl::StatusOr<std::string> Type() const { return String("type"); }
  absl::StatusOr<std::string> String(const char* field) const;
  // A string of exactly one character.
  absl::StatusOr<char32_t> Char(const char* field) const;
  absl::StatusOr<std::string> String(const char* field, std::string_view otherwise) const;
  absl::StatusOr<bool> Bool(const char* field) const;
  absl::StatusOr<bool> Bool(const char* field, bool otherwise) const;
  // A whole number in [min, max].
  absl::StatusOr<int64_t> Int(const char* field, int64_t min, int64_t max) const;
  // The elements of an array field, each with its path.
  absl::StatusOr<std::vector<Component>> List(const char* field) const;
  // A field as a component; null when missing.
  Component Field(const char* field) const;

  // InvalidArgument "<path>: <what>".
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(fmt::format("{}: {}", path_, what));
  }
  absl::Status Unsupported(std::string_view type, std::string_view known) const {
    return Error(fmt::format("unknown type '{}'; known are {}", type, known));
  }

 private:
  const nlohmann::json* Find(const char* field) const;
  absl::Status WrongField(const char* field, std::string_view expected) const;

  const nlohmann::json* value_;
  std::string path_;
};

// {"String": "..."} or {"Regex": "..."}: what Split and Replace look for.
struct PatternSpec {
  bool is_regex;
  std::string text;
};
absl::StatusOr<PatternSpec> ReadPattern(const Component& owner);

}  // namespace lexico::worker

// Typed access to the fields of a configuration, with messages that name field and values.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace lexico::worker {

// A view of a JSON object that must outlive it. A field that is null counts as absent, as in
// transformers.
class ConfigReader {
 public:
  // `name` opens every message: "models/x/config.json".
  ConfigReader(std::string name, const nlohmann::json& object)
      : name_(std::move(name)), object_(object) {}

  const std::string& name() const { return name_; }

  // The field, or null when it is absent.
  const nlohmann::json* Get(const char* field) const;

  // True also for a field that is null.
  bool Contains(const char* field) const { return object_.contains(field); }

  // Required fields, in [min, max]; `value` changes only on success.
  absl::Status Int(const char* field, int64_t min, int64_t max, int* value) const;
  absl::Status Double(const char* field, double min, double max, double* value) const;

  // Absent: `value` stays.
  absl::Status OptionalBool(const char* field, bool* value) const;
  absl::Status OptionalString(const char* field, std::string* value) const;

  // InvalidArgument "NAME: FIELD is VALUE, must be WANTED", or "is missing".
  absl::Status Refuse(const char* field, std::string_view wanted) const;

 private:
  std::string name_;
  const nlohmann::json& object_;
};

}  // namespace lexico::worker

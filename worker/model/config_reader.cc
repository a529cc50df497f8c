#include "worker/model/config_reader.h"

#include <fmt/format.h>

#include "worker/model/json_file.h"

namespace lexico::worker {

using Json = nlohmann::json;

const Json* ConfigReader::Get(const char* field) const {
  const auto it = object_.find(field);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

absl::Status ConfigReader::Int(const char* field, int64_t min, int64_t max, int* value) const {
  const Json* json = Get(field);
  // Compared as double, which no integer of the file can wrap and every limit fits exactly.
  if (json == nullptr || !json->is_number_integer() ||
      !(json->get<double>() >= static_cast<double>(min) &&
        json->get<double>() <= static_cast<double>(max))) {
    return Refuse(field, fmt::format("an integer in {} .. {}", min, max));
  }
  *value = json->get<int>();
  return absl::OkStatus();
}

absl::Status ConfigReader::Double(const char* field, double min, double max, double* value) const {
  const Json* json = Get(field);
  if (json == nullptr || !json->is_number() ||
      !(json->get<double>() >= min && json->get<double>() <= max)) {
    return Refuse(field, fmt::format("a number in {} .. {}", min, max));
  }
  *value = json->get<double>();
  return absl::OkStatus();
}

absl::Status ConfigReader::OptionalBool(const char* field, bool* value) const {
  const Json* json = Get(field);
  if (json == nullptr) return absl::OkStatus();
  if (!json->is_boolean()) return Refuse(field, "true or false");
  *value = json->get<bool>();
  return absl::OkStatus();
}

absl::Status ConfigReader::OptionalString(const char* field, std::string* value) const {
  const Json* json = Get(field);
  if (json == nullptr) return absl::OkStatus();
  if (!json->is_string()) return Refuse(field, "a text");
  *value = json->get<std::string>();
  return absl::OkStatus();
}

absl::Status ConfigReader::Refuse(const char* field, std::string_view wanted) const {
  const Json* json = Get(field);
  if (json == nullptr) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {} is missing, must be {}", name_, field, wanted));
  }
  return absl::InvalidArgumentError(
      fmt::format("{}: {} is {}, must be {}", name_, field, JsonForMessage(*json), wanted));
}

}  // namespace lexico::worker

// JSON that came from outside, as a tree that is safe to look into.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace lexico::worker {

// Parses an object. DataLoss when the text is not JSON (with the place), InvalidArgument when it is
// not an object, nests deeper than limits.h kJsonDepthMax, or names a key of one object twice (what
// a reader would make of that is anybody's guess). `name` is the file in messages.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view name, std::string_view text);

// "null", "true", "3", "\"text\"", cut after 60 bytes: a value for a message.
std::string JsonForMessage(const nlohmann::json& value);

}  // namespace lexico::worker

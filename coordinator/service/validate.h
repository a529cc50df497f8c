// Checks of requests at the edge. Every failure is InvalidArgument, names the field, and gives the
// value's size or name and the bound. Nothing inside checks again.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "lexico/v1/inference.pb.h"

namespace lexico::coord {

// [A-Za-z0-9._-]{1,128}; `field` for the message.
absl::Status CheckName(std::string_view field, std::string_view name);

absl::Status CheckCreateSession(const v1::CreateSessionRequest& request);
absl::Status CheckGenerate(const v1::GenerateRequest& request);

}  // namespace lexico::coord

// Small files as strings.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace lexico::base {

// The bytes of a file. NotFound: it cannot be opened; InvalidArgument: it is longer than
// `bytes_max`; Unavailable: reading failed. Messages name the path.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t bytes_max);

}  // namespace lexico::base

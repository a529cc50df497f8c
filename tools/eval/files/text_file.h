// Text files of evaluations: those they read as tokens and those they write.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lexico::eval {

// The tokens of a UTF-8 file, of which at most 1 GiB is read, by the tokenizer of a model folder,
// without special tokens. Errors name the file.
absl::StatusOr<std::vector<int32_t>> ReadTextIds(const std::string& model_dir,
                                                 const std::string& path);

// Unavailable, with the path, where it cannot be written.
absl::Status WriteText(const std::string& path, const std::string& text);

}  // namespace lexico::eval

// Documents and prompts from files, standard input and arguments, checked before they are sent.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lexico::cli {

// Chunks small enough that progress moves and large enough that a message costs nothing.
inline constexpr size_t kChunkBytes = 256u << 10;

// Reads `path` ("-": standard input) in chunks of at most kChunkBytes and gives each to `take` with
// the bytes read so far, itself included. Stops at the first error. NotFound or PermissionDenied
// with the path; InvalidArgument for a folder, and when the text is not UTF-8, with the byte
// offset.
absl::Status ReadTextFile(const std::string& path,
                          const std::function<absl::Status(std::string_view, size_t)>& take);

// The size of a regular file, 0 for anything else (a pipe's is unknown).
size_t FileBytes(const std::string& path);

// `argument` itself, or all of standard input when it is "-". InvalidArgument unless UTF-8.
absl::StatusOr<std::string> TextArgument(const std::string& argument);

}  // namespace lexico::cli

// A whole file as read-only memory.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace lexico::worker {

// Immutable after Open; any thread may read. A file that another process truncates while it is
// mapped raises SIGBUS on access: replace model files by rename, never in place.
class MappedFile {
 public:
  // NotFound when there is no such file; InvalidArgument when it is not a regular file; otherwise
  // the system's error. Every message names the path. An empty file is an empty span.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const uint8_t> bytes() const { return {data_, size_}; }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lexico::worker

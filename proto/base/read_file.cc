#include "proto/base/read_file.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <system_error>

namespace lexico::base {

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t bytes_max) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(fmt::format("{}: {}", path, error.message()));
  if (size > bytes_max) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {} bytes, more than the {} allowed", path, size, bytes_max));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(fmt::format("{}: cannot be opened", path));
  std::string text(size, '\0');
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (file.gcount() != static_cast<std::streamsize>(size)) {
    return absl::UnavailableError(
        fmt::format("{}: read {} of {} bytes", path, file.gcount(), size));
  }
  return text;
}

}  // namespace lexico::base

#include "tools/train_dictionary/safe_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "proto/base/options.h"

namespace lexico::train_dictionary {
namespace {

namespace fs = std::filesystem;

absl::Status SystemError(const std::string& path, const char* what, const char* flag) {
  const bool no_room = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
  const std::string message =
      fmt::format("{}: {}: {}; {}choose another place with {}", path, what,
                  std::generic_category().message(errno), no_room ? "free space or " : "", flag);
  return no_room ? absl::ResourceExhaustedError(message) : absl::UnavailableError(message);
}

// False with errno.
bool WriteAll(int fd, const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) done += static_cast<size_t>(n);
  }
  return ::fsync(fd) == 0;
}

}  // namespace

std::string SafetensorsBytes(const std::vector<OutTensor>& tensors, const Facts& metadata) {
  nlohmann::ordered_json header;
  for (const auto& [name, text] : metadata) header["__metadata__"][name] = text;
  size_t offset = 0;
  for (const OutTensor& tensor : tensors) {
    const size_t end = offset + tensor.bytes.size();
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  text.append((64 - (text.size() + 8) % 64) % 64, ' ');
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(text.size() >> (8 * i));
  bytes += text;
  bytes.reserve(bytes.size() + offset);
  for (const OutTensor& tensor : tensors) {
    bytes.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  return bytes;
}

absl::Status WriteWhole(const std::string& path, const std::string& bytes, const char* flag) {
  const std::string partial = path + ".partial";
  const int fd = ::open(partial.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError(partial, "cannot be created", flag);
  absl::Status status;
  if (!WriteAll(fd, bytes)) status = SystemError(partial, "cannot be written", flag);
  if (::close(fd) != 0 && status.ok()) status = SystemError(partial, "cannot be written", flag);
  if (status.ok() && ::rename(partial.c_str(), path.c_str()) != 0) {
    status = SystemError(path, "cannot be replaced", flag);
  }
  if (!status.ok()) ::unlink(partial.c_str());
  return status;
}

absl::Status CheckRoom(const std::string& path, int64_t bytes, const char* flag) {
  std::error_code error;
  const fs::path folder = fs::absolute(path, error).parent_path();
  if (!fs::is_directory(folder, error)) {
    return absl::NotFoundError(
        fmt::format("{}: there is no folder {}; make it, or choose another "
                    "place with {}",
                    path, folder.string(), flag));
  }
  if (fs::is_directory(path, error)) {
    return absl::InvalidArgumentError(
        fmt::format("{} is a folder; name a file with {}", path, flag));
  }
  if (::access(folder.c_str(), W_OK) != 0) return SystemError(folder, "cannot be written", flag);
  const fs::space_info space = fs::space(folder, error);
  if (!error && space.available < static_cast<uintmax_t>(bytes)) {
    return absl::ResourceExhaustedError(
        fmt::format("{} takes {}, its disk has {} free; free space or choose another place with {}",
                    path, base::HumanBytes(static_cast<double>(bytes)),
                    base::HumanBytes(static_cast<double>(space.available)), flag));
  }
  return absl::OkStatus();
}

}  // namespace lexico::train_dictionary

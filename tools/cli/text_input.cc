#include "tools/cli/text_input.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "proto/base/status.h"
#include "proto/base/utf8.h"

namespace lexico::cli {
namespace {

absl::Status FileError(int error, const std::string& path) {
  const std::string message = fmt::format("cannot read {}: {}", path, std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == EISDIR) return absl::InvalidArgumentError(message);
  if (error == EACCES) return absl::PermissionDeniedError(message);
  return absl::UnknownError(message);
}

}  // namespace

absl::Status ReadTextFile(const std::string& path,
                          const std::function<absl::Status(std::string_view, size_t)>& take) {
  const bool is_stdin = path == "-";
  const std::unique_ptr<FILE, int (*)(FILE*)> file(
      is_stdin ? stdin : std::fopen(path.c_str(), "rb"),
      [](FILE* f) { return f == stdin ? 0 : std::fclose(f); });
  if (file == nullptr) return FileError(errno, path);
  base::Utf8Validator validator;
  std::string chunk(kChunkBytes, '\0');
  size_t total = 0;
  while (true) {
    const size_t n = std::fread(chunk.data(), 1, chunk.size(), file.get());
    if (n == 0) break;
    total += n;
    const std::string_view text = std::string_view(chunk).substr(0, n);
    if (absl::Status status = validator.Push(text); !status.ok()) {
      return base::Annotate(status, is_stdin ? "standard input" : path);
    }
    LEXICO_RETURN_IF_ERROR(take(text, total));
  }
  if (std::ferror(file.get())) return FileError(errno, is_stdin ? "standard input" : path);
  return validator.Finish();
}

size_t FileBytes(const std::string& path) {
  struct stat info {};
  if (path == "-" || stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return 0;
  return static_cast<size_t>(info.st_size);
}

absl::StatusOr<std::string> TextArgument(const std::string& argument) {
  if (argument != "-") {
    if (absl::Status status = base::CheckUtf8(argument); !status.ok()) return status;
    return argument;
  }
  std::string text;
  LEXICO_RETURN_IF_ERROR(ReadTextFile("-", [&](std::string_view chunk, size_t) {
    text += chunk;
    return absl::OkStatus();
  }));
  return text;
}

}  // namespace lexico::cli

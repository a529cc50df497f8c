#include "tools/random_model/tensor_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>

#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::random_model {
namespace {

constexpr int64_t kPieceElements = int64_t{4} << 20;
constexpr int64_t kElementBytes = 2;

absl::Status SystemError(const std::string& path, const char* what) {
  const std::string message =
      fmt::format("{}: {}: {}", path, what, std::generic_category().message(errno));
  const bool no_room = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
  if (!no_room) return absl::UnavailableError(message);
  return absl::ResourceExhaustedError(message + "; free space, or fewer layers (--layers)");
}

// Closes on destruction.
class File {
 public:
  explicit File(const std::string& path)
      : fd_(::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  bool is_open() const { return fd_ >= 0; }

  // False with errno.
  bool WriteAt(int64_t offset, const char* data, int64_t bytes) const {
    while (bytes > 0) {
      const ssize_t written = ::pwrite(fd_, data, bytes, offset);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return false;
      data += written;
      offset += written;
      bytes -= written;
    }
    return true;
  }

 private:
  int fd_;
};

// Length, JSON and the spaces that align the tensors to 64 bytes.
std::string Header(const std::vector<FileTensor>& tensors,
                   const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const FileTensor& tensor : tensors) {
    const int64_t end = offset + tensor.n_elements() * kElementBytes;
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((64 - (text.size() + 8) % 64) % 64, ' ');
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(text.size() >> (8 * i));
  return bytes + text;
}

struct Piece {
  const FileTensor* tensor;
  int64_t first;   // element of the tensor
  int64_t n;       // elements
  int64_t offset;  // of the file
};

std::vector<Piece> Cut(const std::vector<FileTensor>& tensors, int64_t offset) {
  std::vector<Piece> pieces;
  for (const FileTensor& tensor : tensors) {
    const int64_t width = tensor.shape.back();
    const int64_t step = std::max<int64_t>(1, kPieceElements / width) * width;
    const int64_t n = tensor.n_elements();
    for (int64_t first = 0; first < n; first += step) {
      pieces.push_back({&tensor, first, std::min(step, n - first), offset + first * kElementBytes});
    }
    offset += n * kElementBytes;
  }
  return pieces;
}

}  // namespace

int64_t FileTensor::n_elements() const {
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  return n;
}

absl::Status WriteTensorFile(const std::string& path, const std::vector<FileTensor>& tensors,
                             const std::map<std::string, std::string>& metadata, int threads,
                             const std::function<void(int64_t bytes)>& progress) {
  const File file(path);
  if (!file.is_open()) return SystemError(path, "cannot be created");
  const std::string header = Header(tensors, metadata);
  absl::Status failure;
  std::mutex failure_mutex;
  std::atomic<bool> failed{false};
  const auto fail = [&] {
    const absl::Status status = SystemError(path, "cannot be written");
    const std::lock_guard<std::mutex> lock(failure_mutex);
    failure = status;
    failed = true;
  };
  if (!file.WriteAt(0, header.data(), static_cast<int64_t>(header.size()))) fail();
  const std::vector<Piece> pieces = Cut(tensors, static_cast<int64_t>(header.size()));
  std::atomic<size_t> next{0};
  const auto work = [&] {
    std::vector<uint16_t> values;
    for (size_t i = next++; i < pieces.size() && !failed; i = next++) {
      const Piece& piece = pieces[i];
      values.resize(piece.n);
      piece.tensor->fill(piece.first, values);
      const int64_t bytes = piece.n * kElementBytes;
      if (!file.WriteAt(piece.offset, reinterpret_cast<const char*>(values.data()), bytes)) fail();
      progress(bytes);
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
    work();
  }
  if (failed) ::unlink(path.c_str());
  return failure;
}

}  // namespace lexico::random_model

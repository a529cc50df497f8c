#include "kernels/api/stream.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "kernels/cuda/open_device.h"
#include "proto/base/limits.h"

namespace lexico::kernels {

absl::StatusOr<Stream> Stream::Cuda(const CudaOptions& options) {
  absl::StatusOr<std::shared_ptr<Device>> device = cuda::OpenDevice(options);
  if (!device.ok()) return device.status();
  return Stream(DeviceKind::kCuda, /*threads=*/1, *std::move(device));
}

namespace {

// The number of a GPU, or nothing for "cpu".
absl::StatusOr<std::optional<int>> ParseName(const std::string& device) {
  if (device == "cpu") return std::nullopt;
  if (device == "cuda") return 0;
  constexpr std::string_view kCuda = "cuda:";
  const char* const end = device.data() + device.size();
  const bool is_cuda = device.starts_with(kCuda);
  int ordinal = -1;
  const auto [parsed, error] =
      std::from_chars(device.data() + (is_cuda ? kCuda.size() : 0), end, ordinal);
  if (is_cuda && error == std::errc() && parsed == end && ordinal >= 0) return ordinal;
  return absl::InvalidArgumentError("device '" + device + "' is none of cpu, cuda, cuda:0, ...");
}

}  // namespace

absl::Status Stream::CheckName(const std::string& device) { return ParseName(device).status(); }

absl::StatusOr<Stream> Stream::Open(const std::string& device, int threads) {
  absl::StatusOr<std::vector<Stream>> streams = OpenRanks(device, threads, 1);
  if (!streams.ok()) return streams.status();
  return (*streams)[0];
}

absl::StatusOr<std::vector<Stream>> Stream::OpenRanks(const std::string& device, int threads,
                                                      int size) {
  // For 32 sequences at once of attention over codes, and prompts in blocks of 2,048 rows.
  constexpr size_t kModelWorkspace = size_t{256} << 20;
  if (size < 1 || size > base::kRanksMax) {
    return absl::InvalidArgumentError(
        fmt::format("a model over {} devices; 1 to {} can share one", size, base::kRanksMax));
  }
  const absl::StatusOr<std::optional<int>> first = ParseName(device);
  if (!first.ok()) return first.status();
  std::vector<Stream> streams;
  for (int rank = 0; rank < size; ++rank) {
    if (!first->has_value()) {
      streams.push_back(Cpu(std::max(1, Cpu(threads).threads() / size)));
      continue;
    }
    absl::StatusOr<Stream> stream =
        Cuda({.ordinal = **first + rank, .workspace_bytes = kModelWorkspace});
    if (!stream.ok() && size > 1) {
      return absl::Status(
          stream.status().code(),
          fmt::format("{}; a model over {} GPUs from cuda:{} on needs cuda:{}",
                      std::string(stream.status().message()), size, **first, **first + rank));
    }
    if (!stream.ok()) return stream.status();
    streams.push_back(*std::move(stream));
  }
  return streams;
}

Stream Stream::Sibling() const {
  if (kind_ == DeviceKind::kCpu) return *this;
  return Stream(kind_, threads_, cuda::OpenSibling(*this));
}

absl::StatusOr<Stream> Stream::Beside(size_t workspace_bytes) const {
  if (kind_ == DeviceKind::kCpu) return *this;
  absl::StatusOr<std::shared_ptr<Device>> device = cuda::OpenBeside(*this, workspace_bytes);
  if (!device.ok()) return device.status();
  return Stream(kind_, threads_, *std::move(device));
}

void Stream::ReleaseThreads() const {
  omp_pause_resource(omp_pause_soft, omp_get_initial_device());
}

}  // namespace lexico::kernels

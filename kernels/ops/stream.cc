#include "kernels/api/stream.h"

#include <omp.h>

#include <charconv>
#include <optional>
#include <string_view>

#include "kernels/cuda/open_device.h"

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
  // For 32 sequences at once of attention over codes, and prompts in blocks of 2,048 rows.
  constexpr size_t kModelWorkspace = size_t{256} << 20;
  const absl::StatusOr<std::optional<int>> ordinal = ParseName(device);
  if (!ordinal.ok()) return ordinal.status();
  if (!ordinal->has_value()) return Cpu(threads);
  return Cuda({.ordinal = **ordinal, .workspace_bytes = kModelWorkspace});
}

Stream Stream::Sibling() const {
  if (kind_ == DeviceKind::kCpu) return *this;
  return Stream(kind_, threads_, cuda::OpenSibling(*this));
}

void Stream::ReleaseThreads() const {
  omp_pause_resource(omp_pause_soft, omp_get_initial_device());
}

}  // namespace lexico::kernels

#include "kernels/api/stream.h"

#include <omp.h>

#include <charconv>

#include "kernels/cuda/open_device.h"

namespace lexico::kernels {

absl::StatusOr<Stream> Stream::Cuda(const CudaOptions& options) {
  absl::StatusOr<std::shared_ptr<Device>> device = cuda::OpenDevice(options);
  if (!device.ok()) return device.status();
  return Stream(DeviceKind::kCuda, /*threads=*/1, *std::move(device));
}

absl::StatusOr<Stream> Stream::Open(const std::string& device, int threads) {
  // For 32 sequences at once of attention over codes, and prompts in blocks of 2,048 rows.
  constexpr size_t kModelWorkspace = size_t{256} << 20;
  if (device == "cpu") return Cpu(threads);
  constexpr char kCuda[] = "cuda:";
  const std::string name = device == "cuda" ? "cuda:0" : device;
  CudaOptions options{.workspace_bytes = kModelWorkspace};
  const char* const end = name.data() + name.size();
  const bool is_cuda = name.starts_with(kCuda);
  const char* const digits = name.data() + (is_cuda ? sizeof(kCuda) - 1 : 0);
  const auto [parsed, error] = std::from_chars(digits, end, options.ordinal);
  if (!is_cuda || error != std::errc() || parsed != end || options.ordinal < 0) {
    return absl::InvalidArgumentError("device '" + device + "' is none of cpu, cuda, cuda:0, ...");
  }
  return Cuda(options);
}

Stream Stream::Sibling() const {
  if (kind_ == DeviceKind::kCpu) return *this;
  return Stream(kind_, threads_, cuda::OpenSibling(*this));
}

void Stream::ReleaseThreads() const {
  omp_pause_resource(omp_pause_soft, omp_get_initial_device());
}

}  // namespace lexico::kernels

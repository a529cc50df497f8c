#include "kernels/cuda/open_device.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include "kernels/cuda/check.h"
#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {
namespace {

// The oldest architecture that CMakeLists.txt compiles for.
constexpr int kComputeMajorMin = 8;

absl::StatusOr<int> CountDevices() {
  int n_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&n_devices);
  if (error == cudaErrorInsufficientDriver) {
    int runtime = 0;
    LEXICO_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    return absl::FailedPreconditionError(
        fmt::format("the NVIDIA driver is older than CUDA {}.{}, which this build uses",
                    runtime / 1000, runtime % 1000 / 10));
  }
  if (error != cudaSuccess) {
    return absl::UnavailableError(fmt::format("no CUDA device: {}", cudaGetErrorString(error)));
  }
  return n_devices;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Device>> OpenDevice(const CudaOptions& options) {
  const absl::StatusOr<int> n_devices = CountDevices();
  if (!n_devices.ok()) return n_devices.status();
  if (options.ordinal < 0 || options.ordinal >= *n_devices) {
    return absl::UnavailableError(
        fmt::format("no CUDA device {}: the machine has {}", options.ordinal, *n_devices));
  }
  cudaDeviceProp properties;
  LEXICO_CUDA_CHECK(cudaGetDeviceProperties(&properties, options.ordinal));
  const std::string name = fmt::format("cuda:{} {}", options.ordinal, properties.name);
  if (properties.major < kComputeMajorMin) {
    return absl::FailedPreconditionError(
        fmt::format("{} has compute capability {}.{}; {}.0 or newer is needed", name,
                    properties.major, properties.minor, kComputeMajorMin));
  }
  auto gpu = std::make_shared<Gpu>(options.ordinal, name);
  if (!gpu->TakeWorkspace(options.workspace_bytes)) {
    return absl::ResourceExhaustedError(
        fmt::format("a workspace of {} bytes does not fit into the memory left of {}",
                    options.workspace_bytes, name));
  }
  return gpu;
}

std::shared_ptr<Device> OpenSibling(const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  return std::make_shared<Gpu>(gpu.ordinal(), gpu.name());
}

}  // namespace lexico::kernels::cuda

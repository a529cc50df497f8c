#include "kernels/cuda/open_device.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include "kernels/cuda/check.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/requirements.h"
#include "proto/base/status.h"

namespace lexico::kernels::cuda {
namespace {

absl::StatusOr<int> CountDevices() {
  int driver = 0;
  int runtime = 0;
  LEXICO_CUDA_CHECK(cudaDriverGetVersion(&driver));
  LEXICO_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  LEXICO_RETURN_IF_ERROR(CheckDriver(driver, runtime));
  int n_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&n_devices);
  if (error == cudaErrorNoDevice) return 0;
  if (error != cudaSuccess) {
    return absl::UnavailableError(fmt::format("no GPU can be used: {}", cudaGetErrorString(error)));
  }
  return n_devices;
}

absl::StatusOr<std::shared_ptr<Device>> WithWorkspace(std::shared_ptr<Gpu> gpu, size_t bytes) {
  if (gpu->TakeWorkspace(bytes)) return gpu;
  return absl::ResourceExhaustedError(fmt::format(
      "a workspace of {} bytes does not fit into the memory left of {}", bytes, gpu->name()));
}

}  // namespace

absl::StatusOr<std::shared_ptr<Device>> OpenDevice(const CudaOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const int n_devices, CountDevices());
  LEXICO_RETURN_IF_ERROR(CheckOrdinal(options.ordinal, n_devices));
  cudaDeviceProp properties;
  LEXICO_CUDA_CHECK(cudaGetDeviceProperties(&properties, options.ordinal));
  const std::string name = fmt::format("cuda:{} {}", options.ordinal, properties.name);
  LEXICO_RETURN_IF_ERROR(CheckCapability(name, properties.major, properties.minor));
  return WithWorkspace(std::make_shared<Gpu>(options.ordinal, name, /*goes_first=*/true),
                       options.workspace_bytes);
}

std::shared_ptr<Device> OpenSibling(const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  return std::make_shared<Gpu>(gpu.ordinal(), gpu.name(), /*goes_first=*/false);
}

absl::StatusOr<std::shared_ptr<Device>> OpenBeside(const Stream& stream, size_t workspace_bytes) {
  const Gpu& gpu = GpuOf(stream);
  return WithWorkspace(std::make_shared<Gpu>(gpu.ordinal(), gpu.name(), /*goes_first=*/false),
                       workspace_bytes);
}

}  // namespace lexico::kernels::cuda

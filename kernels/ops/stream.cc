#include "kernels/api/stream.h"

#include <omp.h>

#include "kernels/cuda/open_device.h"

namespace lexico::kernels {

absl::StatusOr<Stream> Stream::Cuda(const CudaOptions& options) {
  absl::StatusOr<std::shared_ptr<Device>> device = cuda::OpenDevice(options);
  if (!device.ok()) return device.status();
  return Stream(DeviceKind::kCuda, /*threads=*/1, *std::move(device));
}

void Stream::ReleaseThreads() const {
  omp_pause_resource(omp_pause_soft, omp_get_initial_device());
}

}  // namespace lexico::kernels

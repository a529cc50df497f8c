// The one door to the GPU for code that knows no CUDA. In a build without CUDA (absent.cc) it is
// closed: it answers Unavailable, and no op of kernels/cuda can then be reached.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/device.h"
#include "kernels/api/stream.h"

namespace lexico::kernels::cuda {

// As Stream::Cuda.
absl::StatusOr<std::shared_ptr<Device>> OpenDevice(const CudaOptions& options);

// As Stream::Sibling. REQUIRES: stream.kind() == DeviceKind::kCuda
std::shared_ptr<Device> OpenSibling(const Stream& stream);
// As kernels::Stream::Beside.
absl::StatusOr<std::shared_ptr<Device>> OpenBeside(const Stream& stream, size_t workspace_bytes);

}  // namespace lexico::kernels::cuda

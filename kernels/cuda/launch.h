// The only way a kernel is launched: on the stream's GPU and in its order, with the dynamic shared
// memory allowed that it asks for, and with the launch's return code looked at. A launch that fails
// ends the process and names the kernel, its grid and the driver's words. What goes wrong while
// the kernel runs is reported by the next CUDA call that is checked, at the latest by Synchronize.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "kernels/cuda/check.h"
#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {

struct LaunchShape {
  const char* kernel;  // for messages
  dim3 blocks;
  int threads;  // of a block
  size_t shared_bytes = 0;
  // It may start while the kernel before it ends, and begins with WaitForPrevious (overlap.cuh).
  bool overlaps = false;
};
inline constexpr bool kOverlaps = true;

// What a kernel may have without asking, beside 16 KiB that it declares itself.
inline constexpr size_t kSharedBytesDefault = 32 * 1024;

// "kernel Scores, grid 128 x 1 x 1, 1024 threads, 65536 bytes of shared memory".
std::string LaunchText(const LaunchShape& shape);

template <typename... Parameters, typename... Arguments>
void Launch(const Gpu& gpu, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  gpu.MakeCurrent();
  cudaError_t error = cudaSuccess;
  if (shape.shared_bytes > kSharedBytesDefault) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes));
  }
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.blocks;
    config.blockDim = dim3(shape.threads);
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = gpu.stream();
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap;
    config.numAttrs = gpu.TakeOverlap() && shape.overlaps ? 1 : 0;
    error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  }
  if (error != cudaSuccess) [[unlikely]] {
    CudaFailed(error, "launch of " + LaunchText(shape), __FILE__, __LINE__);
  }
}

}  // namespace lexico::kernels::cuda

// The return code of every CUDA call is looked at here. One that is not success ends the process
// with the call and the driver's words: errors of kernels are sticky, so nothing after one can be
// trusted; whoever supervises the worker restarts it, and its sessions resume elsewhere.
#pragma once

#include <cuda_runtime.h>

#include <string>

namespace lexico::kernels::cuda {

// Prints `what` and the error. Exits with status 1 where the GPU itself has failed or is gone;
// anything else is a mistake of ours and aborts, like a CHECK.
[[noreturn]] void CudaFailed(cudaError_t error, const std::string& what, const char* file,
                             int line);

// Prints that the GPU, or one that it computes with, has failed, and exits with status 1.
[[noreturn]] void DeviceFailed(const std::string& reason, const char* file, int line);

}  // namespace lexico::kernels::cuda

#define LEXICO_CUDA_CHECK(call)                                                          \
  do {                                                                                   \
    const cudaError_t lexico_cuda_error = (call);                                        \
    if (lexico_cuda_error != cudaSuccess) [[unlikely]]                                   \
      ::lexico::kernels::cuda::CudaFailed(lexico_cuda_error, #call, __FILE__, __LINE__); \
  } while (false)

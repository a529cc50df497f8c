#include "kernels/cuda/check.h"

#include <cstdio>
#include <cstdlib>

#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

// Of the hardware, its links or its driver: no code of ours causes these.
bool IsOfTheDevice(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceUninitialized:
    case cudaErrorNoDevice:
    case cudaErrorSystemNotReady:
    case cudaErrorExternalDevice:
    case cudaErrorOperatingSystem:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

void DeviceFailed(const std::string& reason, const char* file, int line) {
  std::fprintf(stderr,
               "the GPU has failed: %s at %s:%d; this process ends, look at the GPU (nvidia-smi, "
               "dmesg) before it is started there again\n",
               reason.c_str(), file, line);
  std::fflush(stderr);
  // Not std::exit: destructors would call the GPU, and other threads still do.
  std::_Exit(1);
}

void CudaFailed(cudaError_t error, const std::string& what, const char* file, int line) {
  const std::string reason =
      what + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error);
  if (!IsOfTheDevice(error)) base::CheckFailed(file, line, reason);
  DeviceFailed(reason, file, line);
}

}  // namespace lexico::kernels::cuda

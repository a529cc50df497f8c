// NCCL, loaded when a model is first split over several GPUs (docs/adr/0012-tensor-parallelism.md).
#pragma once

#include <nccl.h>

#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace lexico::kernels::cuda {

// The functions that we call.
struct Nccl {
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
  decltype(&ncclCommInitAll) init_all;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclAllGather) all_gather;
};

// NCCL 2: where the loader finds it, else in the CUDA Toolkit's folder. Unavailable, with the
// loader's words, where there is none. Loaded once in a process and kept. NVLink multicast (NVLS)
// is switched off for the process before.
absl::StatusOr<const Nccl*> LoadNccl();

// From the first of these files that can be loaded; for LoadNccl and its test.
absl::StatusOr<Nccl> LoadNcclFrom(std::span<const std::string> files);

// Ends the process with the call and the library's words, unless the result is success, as
// CudaFailed does: with status 1 unless the mistake is ours. `comm` may be null.
void CheckNccl(const Nccl& nccl, ncclResult_t result, ncclComm_t comm, const char* call);

}  // namespace lexico::kernels::cuda

#include "kernels/cuda/nccl.h"

#include <fmt/format.h>

#include <cstdlib>
#include <vector>

#include "kernels/cuda/check.h"
#include "kernels/cuda/shared_library.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

bool FindAll(void* library, Nccl* nccl) {
  return FindFunction(library, "ncclGetErrorString", &nccl->error_string) &&
         FindFunction(library, "ncclGetLastError", &nccl->last_error) &&
         FindFunction(library, "ncclCommInitAll", &nccl->init_all) &&
         FindFunction(library, "ncclCommDestroy", &nccl->destroy) &&
         FindFunction(library, "ncclCommGetAsyncError", &nccl->async_error) &&
         FindFunction(library, "ncclAllReduce", &nccl->all_reduce) &&
         FindFunction(library, "ncclAllGather", &nccl->all_gather);
}

}  // namespace

absl::StatusOr<Nccl> LoadNcclFrom(std::span<const std::string> files) {
  Nccl nccl;
  const absl::Status loaded = LoadLibrary(
      files, "NCCL",
      fmt::format("NCCL, which connects the GPUs that share a model, was not found; install NCCL "
                  "{} for CUDA or name its folder in LD_LIBRARY_PATH",
                  NCCL_MAJOR),
      [&nccl](void* library) { return FindAll(library, &nccl); });
  if (!loaded.ok()) return loaded;
  return nccl;
}

absl::StatusOr<const Nccl*> LoadNccl() {
  static const absl::StatusOr<Nccl> loaded = [] {
    setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/1);
    const std::string file = fmt::format("libnccl.so.{}", NCCL_MAJOR);
    return LoadNcclFrom(std::vector{file, kToolkitFolder + file});
  }();
  if (!loaded.ok()) return loaded.status();
  return &*loaded;
}

void CheckNccl(const Nccl& nccl, ncclResult_t result, ncclComm_t comm, const char* call) {
  if (result == ncclSuccess) return;
  const std::string reason =
      fmt::format("{}: {}: {}", call, nccl.error_string(result), nccl.last_error(comm));
  const bool is_ours = result == ncclInvalidArgument || result == ncclInvalidUsage;
  if (is_ours) base::CheckFailed(__FILE__, __LINE__, reason);
  DeviceFailed(reason, __FILE__, __LINE__);
}

}  // namespace lexico::kernels::cuda

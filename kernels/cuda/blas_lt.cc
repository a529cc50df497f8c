#include "kernels/cuda/blas_lt.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/shared_library.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

// False where a function is missing, which a library of that major version has.
bool FindAll(void* library, BlasLt* lt) {
  return FindFunction(library, "cublasLtGetStatusString", &lt->status_string) &&
         FindFunction(library, "cublasLtCreate", &lt->create) &&
         FindFunction(library, "cublasLtDestroy", &lt->destroy) &&
         FindFunction(library, "cublasLtMatmulDescCreate", &lt->product_create) &&
         FindFunction(library, "cublasLtMatmulDescDestroy", &lt->product_destroy) &&
         FindFunction(library, "cublasLtMatmulDescSetAttribute", &lt->product_set) &&
         FindFunction(library, "cublasLtMatrixLayoutCreate", &lt->layout_create) &&
         FindFunction(library, "cublasLtMatrixLayoutDestroy", &lt->layout_destroy) &&
         FindFunction(library, "cublasLtMatmulPreferenceCreate", &lt->preference_create) &&
         FindFunction(library, "cublasLtMatmulPreferenceDestroy", &lt->preference_destroy) &&
         FindFunction(library, "cublasLtMatmulPreferenceSetAttribute", &lt->preference_set) &&
         FindFunction(library, "cublasLtMatmulAlgoGetHeuristic", &lt->choose) &&
         FindFunction(library, "cublasLtMatmul", &lt->multiply);
}

}  // namespace

absl::StatusOr<BlasLt> LoadBlasLtFrom(std::span<const std::string> files) {
  BlasLt lt;
  const absl::Status loaded = LoadLibrary(
      files, "cuBLASLt",
      fmt::format("cuBLASLt, which multiplies matrices on a GPU, was not found; install cuBLAS of "
                  "CUDA {} or name its folder in LD_LIBRARY_PATH",
                  CUBLAS_VER_MAJOR),
      [&lt](void* library) { return FindAll(library, &lt); });
  if (!loaded.ok()) return loaded;
  return lt;
}

absl::StatusOr<const BlasLt*> LoadBlasLt() {
  static const absl::StatusOr<BlasLt> loaded = [] {
    const std::string file = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
    return LoadBlasLtFrom(std::vector{file, kToolkitFolder + file});
  }();
  if (!loaded.ok()) return loaded.status();
  return &*loaded;
}

void CheckBlas(const BlasLt& lt, cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  base::CheckFailed(__FILE__, __LINE__, fmt::format("{}: {}", call, lt.status_string(status)));
}

}  // namespace lexico::kernels::cuda

#include "kernels/cuda/blas_lt.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

constexpr char kToolkitFolder[] = "/usr/local/cuda/lib64/";

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// False where a function is missing, which a library of that major version has.
bool FindAll(void* library, BlasLt* lt) {
  return Find(library, "cublasLtGetStatusString", &lt->status_string) &&
         Find(library, "cublasLtCreate", &lt->create) &&
         Find(library, "cublasLtDestroy", &lt->destroy) &&
         Find(library, "cublasLtMatmulDescCreate", &lt->product_create) &&
         Find(library, "cublasLtMatmulDescDestroy", &lt->product_destroy) &&
         Find(library, "cublasLtMatmulDescSetAttribute", &lt->product_set) &&
         Find(library, "cublasLtMatrixLayoutCreate", &lt->layout_create) &&
         Find(library, "cublasLtMatrixLayoutDestroy", &lt->layout_destroy) &&
         Find(library, "cublasLtMatmulPreferenceCreate", &lt->preference_create) &&
         Find(library, "cublasLtMatmulPreferenceDestroy", &lt->preference_destroy) &&
         Find(library, "cublasLtMatmulPreferenceSetAttribute", &lt->preference_set) &&
         Find(library, "cublasLtMatmulAlgoGetHeuristic", &lt->choose) &&
         Find(library, "cublasLtMatmul", &lt->multiply);
}

}  // namespace

absl::StatusOr<BlasLt> LoadBlasLtFrom(std::span<const std::string> files) {
  std::string words;
  for (const std::string& file : files) {
    void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* error = dlerror();
      words += fmt::format("; {}", error != nullptr ? error : file);
      continue;
    }
    BlasLt lt;
    if (FindAll(library, &lt)) return lt;
    words += fmt::format("; {} lacks functions of cuBLASLt", file);
    dlclose(library);
  }
  return absl::UnavailableError(
      fmt::format("cuBLASLt, which multiplies matrices on a GPU, was not found; install cuBLAS of "
                  "CUDA {} or name its folder in LD_LIBRARY_PATH{}",
                  CUBLAS_VER_MAJOR, words));
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

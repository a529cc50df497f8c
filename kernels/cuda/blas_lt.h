// cuBLASLt, loaded when the first matrix is prepared: programs start, and serve on a CPU, on
// machines that do not have it (docs/adr/0008-dense-ops-on-a-gpu.md).
#pragma once

#include <cublasLt.h>

#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace lexico::kernels::cuda {

// The functions that we call.
struct BlasLt {
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmulDescCreate) product_create;
  decltype(&cublasLtMatmulDescDestroy) product_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) product_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) choose;
  decltype(&cublasLtMatmul) multiply;
};

// The library of the version this was built with: where the loader finds it, else in the CUDA
// Toolkit's folder. Unavailable, with the loader's words, where there is none. Loaded once in a
// process and kept.
absl::StatusOr<const BlasLt*> LoadBlasLt();

// From the first of these files that can be loaded; for LoadBlasLt and its test.
absl::StatusOr<BlasLt> LoadBlasLtFrom(std::span<const std::string> files);

// Ends the process with the call and the library's words, unless the status is success.
void CheckBlas(const BlasLt& lt, cublasStatus_t status, const char* call);

}  // namespace lexico::kernels::cuda

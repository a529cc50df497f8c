// Which of cuBLASLt's algorithms serves which product: asked once for a shape and kept with the
// stream, so that a step asks nothing and a shape always runs the same kernels. Thread-compatible.
#pragma once

#include <cublasLt.h>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/tensor.h"
#include "kernels/cuda/blas_lt.h"

namespace lexico::kernels::cuda {

// y [n_rows, n_out] F32 = x [n_rows, n_in] W [n_out, n_in]^T, x and W of `type`, rows of both at
// multiples of 16 bytes.
struct ProductShape {
  int64_t n_rows = 0;
  int64_t n_out = 0;
  int64_t n_in = 0;
  DType type = DType::kF32;
  bool y_aligned = false;  // y lies at a multiple of 16 bytes

  auto operator<=>(const ProductShape&) const = default;
};

class MatMulPlans {
 public:
  // For products of the device that is current, with `workspace_bytes` of its memory each.
  // Unavailable as LoadBlasLt.
  static absl::StatusOr<std::unique_ptr<MatMulPlans>> Create(size_t workspace_bytes);
  ~MatMulPlans();

  size_t workspace_bytes() const { return workspace_bytes_; }

  // Enqueues the product; y is added to when `accumulate`. `workspace` is aligned to 256.
  void Multiply(const ProductShape& shape, const void* x, const void* w, float* y, bool accumulate,
                void* workspace, cudaStream_t stream);

 private:
  struct Plan {
    cublasLtMatmulDesc_t product = nullptr;
    // As the library sees row-major arrays: column-major, transposed.
    cublasLtMatrixLayout_t w = nullptr;  // [n_in, n_out]
    cublasLtMatrixLayout_t x = nullptr;  // [n_in, n_rows]
    cublasLtMatrixLayout_t y = nullptr;  // [n_out, n_rows]
    cublasLtMatmulAlgo_t algorithm;
  };

  MatMulPlans(const BlasLt& lt, cublasLtHandle_t handle, size_t workspace_bytes)
      : lt_(lt), handle_(handle), workspace_bytes_(workspace_bytes) {}
  const Plan& PlanOf(const ProductShape& shape);
  Plan MakePlan(const ProductShape& shape) const;
  void Choose(const ProductShape& shape, Plan* plan) const;

  const BlasLt& lt_;
  const cublasLtHandle_t handle_;
  const size_t workspace_bytes_;
  std::map<ProductShape, Plan> plans_;  // a few hundred bytes each, at most one a batch size
};

}  // namespace lexico::kernels::cuda

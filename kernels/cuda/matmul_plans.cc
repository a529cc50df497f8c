#include "kernels/cuda/matmul_plans.h"

#include <fmt/format.h>

#include "proto/base/check.h"

#define LEXICO_BLAS_CHECK(call) CheckBlas(lt_, (call), #call)

namespace lexico::kernels::cuda {
namespace {

cudaDataType_t BlasType(DType type) {
  switch (type) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      LEXICO_UNREACHABLE();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<MatMulPlans>> MatMulPlans::Create(size_t workspace_bytes) {
  const absl::StatusOr<const BlasLt*> lt = LoadBlasLt();
  if (!lt.ok()) return lt.status();
  cublasLtHandle_t handle = nullptr;
  CheckBlas(**lt, (*lt)->create(&handle), "cublasLtCreate");
  return std::unique_ptr<MatMulPlans>(new MatMulPlans(**lt, handle, workspace_bytes));
}

MatMulPlans::~MatMulPlans() {
  for (const auto& [shape, plan] : plans_) {
    lt_.layout_destroy(plan.y);
    lt_.layout_destroy(plan.x);
    lt_.layout_destroy(plan.w);
    lt_.product_destroy(plan.product);
  }
  lt_.destroy(handle_);
}

void MatMulPlans::Multiply(const ProductShape& shape, const void* x, const void* w, float* y,
                           bool accumulate, void* workspace, cudaStream_t stream) {
  const Plan& plan = PlanOf(shape);
  const float alpha = 1.0f;
  const float beta = accumulate ? 1.0f : 0.0f;
  LEXICO_BLAS_CHECK(lt_.multiply(handle_, plan.product, &alpha, w, plan.w, x, plan.x, &beta, y,
                                 plan.y, y, plan.y, &plan.algorithm, workspace, workspace_bytes_,
                                 stream));
}

const MatMulPlans::Plan& MatMulPlans::PlanOf(const ProductShape& shape) {
  const auto known = plans_.find(shape);
  if (known != plans_.end()) return known->second;
  return plans_.emplace(shape, MakePlan(shape)).first->second;
}

MatMulPlans::Plan MatMulPlans::MakePlan(const ProductShape& shape) const {
  Plan plan;
  // F32 weights multiply in F32: not CUBLAS_COMPUTE_32F_FAST_TF32.
  LEXICO_BLAS_CHECK(lt_.product_create(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  LEXICO_BLAS_CHECK(
      lt_.product_set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)));
  const cudaDataType_t type = BlasType(shape.type);
  LEXICO_BLAS_CHECK(lt_.layout_create(&plan.w, type, shape.n_in, shape.n_out, shape.n_in));
  LEXICO_BLAS_CHECK(lt_.layout_create(&plan.x, type, shape.n_in, shape.n_rows, shape.n_in));
  LEXICO_BLAS_CHECK(lt_.layout_create(&plan.y, CUDA_R_32F, shape.n_out, shape.n_rows, shape.n_out));
  Choose(shape, &plan);
  return plan;
}

void MatMulPlans::Choose(const ProductShape& shape, Plan* plan) const {
  cublasLtMatmulPreference_t wish = nullptr;
  LEXICO_BLAS_CHECK(lt_.preference_create(&wish));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    LEXICO_BLAS_CHECK(lt_.preference_set(wish, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes_));
  const uint32_t y_alignment = shape.y_aligned ? 16 : 4;
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, uint32_t{16});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t{16});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y_alignment);
  cublasLtMatmulHeuristicResult_t best = {};
  int n_found = 0;
  const cublasStatus_t status = lt_.choose(handle_, plan->product, plan->w, plan->x, plan->y,
                                           plan->y, wish, 1, &best, &n_found);
  if (status != CUBLAS_STATUS_SUCCESS || n_found == 0) {
    base::CheckFailed(__FILE__, __LINE__,
                      fmt::format("cuBLASLt has no product of [{}, {}] with [{}, {}] of {}: {}",
                                  shape.n_rows, shape.n_in, shape.n_out, shape.n_in,
                                  DTypeName(shape.type), lt_.status_string(status)));
  }
  plan->algorithm = best.algo;
  LEXICO_BLAS_CHECK(lt_.preference_destroy(wish));
}

}  // namespace lexico::kernels::cuda

// Matrix products on the CPU: which unit serves which product.
//
//   panels   FP32 arithmetic, our own tile (matmul_panels.h): every product on a CPU without BF16
//            units; everywhere, products of few rows (bound by the bytes of W) and of weights that
//            are not BF16. A row's result does not depend on the batch around it.
//   oneDNN   BF16 operands, FP32 sums, on AVX512_BF16 or AMX: BF16 weights, more than kFewRows
//            rows. x is rounded to BF16, 2^-9 relative.
//
// Why: docs/adr/0002-matrix-products.md.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/api/matmul.h"
#include "kernels/cpu/matmul_onednn.h"
#include "kernels/cpu/matmul_panels.h"

namespace lexico::kernels::cpu {

// Up to here a product reads the weights more slowly than it multiplies, whatever the unit.
inline constexpr int64_t kFewRows = 8;

class Matrix final : public PreparedMatrix {
 public:
  Matrix(std::span<const TensorView> weights, int64_t n_out, int64_t n_in,
         std::unique_ptr<OneDnnMatrix> bf16);

  // Both forms, where both are held: 2 bytes a weight for each, 4 for F32 panels.
  size_t bytes() const override { return panels_.bytes() + (bf16_ ? bf16_->bytes() : 0); }

  DType input_type() const override { return DType::kF32; }

  const PanelMatrix& panels() const { return panels_; }
  // Null where the panels serve every product.
  const OneDnnMatrix* bf16() const { return bf16_.get(); }

 private:
  PanelMatrix panels_;
  std::unique_ptr<OneDnnMatrix> bf16_;
};

// kernels/api/matmul.h. `unit` is what Bf16Unit() says; tests pass Bf16UnitKind::kNone to compare.
absl::StatusOr<std::shared_ptr<const PreparedMatrix>> PrepareMatrix(
    std::span<const TensorView> weights, Bf16UnitKind unit);
void MatMul(TensorView x, const PreparedMatrix& w, MutableTensorView y, bool accumulate,
            int threads);
const char* MatMulUnit();

}  // namespace lexico::kernels::cpu

#include "kernels/cpu/matmul.h"

#include <fmt/format.h>

#include <utility>

#include "absl/status/status.h"
#include "kernels/api/weights.h"
#include "proto/base/check.h"

namespace lexico::kernels::cpu {
namespace {

const Matrix& AsCpu(const PreparedMatrix& w) {
  const auto* matrix = dynamic_cast<const Matrix*>(&w);
  LEXICO_CHECK(matrix != nullptr);
  return *matrix;
}

}  // namespace

Matrix::Matrix(std::span<const TensorView> weights, int64_t n_out, int64_t n_in,
               std::unique_ptr<OneDnnMatrix> bf16)
    : PreparedMatrix(n_out, n_in), panels_(weights, n_out, n_in), bf16_(std::move(bf16)) {}

absl::StatusOr<std::shared_ptr<const PreparedMatrix>> PrepareMatrix(
    std::span<const TensorView> weights, Bf16UnitKind unit) {
  if (absl::Status status = CheckWeights(weights); !status.ok()) return status;
  int64_t n_out = 0;
  bool all_bf16 = true;
  for (const TensorView& w : weights) {
    n_out += w.dim(0);
    all_bf16 = all_bf16 && w.dtype == DType::kBF16;
  }
  const int64_t n_in = weights[0].dim(1);
  std::unique_ptr<OneDnnMatrix> bf16;
  if (all_bf16 && unit != Bf16UnitKind::kNone) {
    auto made = OneDnnMatrix::Make(weights, n_out, n_in);
    if (!made.ok()) return made.status();
    bf16 = *std::move(made);
  }
  return std::make_shared<Matrix>(weights, n_out, n_in, std::move(bf16));
}

void MatMul(TensorView x, const PreparedMatrix& w, MutableTensorView y, bool accumulate,
            int threads) {
  const Matrix& matrix = AsCpu(w);
  if (matrix.bf16() != nullptr && x.dim(0) > kFewRows)
    return matrix.bf16()->MatMul(x.as<float>(), x.dim(0), y.as_mutable<float>(), accumulate,
                                 threads);
  PanelMatMul(x.as<float>(), x.dim(0), matrix.panels(), y.as_mutable<float>(), accumulate, threads);
}

const char* MatMulUnit() {
  static const std::string unit = [] {
    const std::string panels = fmt::format("F32 panels ({})", PanelTarget());
    if (Bf16Unit() == Bf16UnitKind::kNone) return panels;
    return fmt::format("oneDNN BF16 ({}) for BF16 weights and more than {} rows, else {}",
                       Bf16UnitName(Bf16Unit()), kFewRows, panels);
  }();
  return unit.c_str();
}

}  // namespace lexico::kernels::cpu

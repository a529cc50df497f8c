#include "kernels/api/weights.h"

#include <fmt/format.h>

namespace lexico::kernels {

absl::Status CheckWeights(std::span<const TensorView> weights) {
  if (weights.empty()) return absl::InvalidArgumentError("no weights to prepare");
  for (const TensorView& w : weights) {
    if (w.rank != 2)
      return absl::InvalidArgumentError(
          fmt::format("a weight matrix has {} dimensions, expected 2", w.rank));
    if (w.dtype != DType::kF32 && w.dtype != DType::kF16 && w.dtype != DType::kBF16)
      return absl::InvalidArgumentError(fmt::format(
          "a weight matrix is of type {}, expected F32, F16 or BF16", DTypeName(w.dtype)));
    if (w.empty())
      return absl::InvalidArgumentError(fmt::format(
          "a weight matrix is [{}, {}], both must be at least 1", w.shape[0], w.shape[1]));
    if (w.shape[1] != weights[0].shape[1])
      return absl::InvalidArgumentError(
          fmt::format("stacked weight matrices take {} and {} inputs, expected equal",
                      weights[0].shape[1], w.shape[1]));
  }
  return absl::OkStatus();
}

}  // namespace lexico::kernels

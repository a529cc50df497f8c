// What PrepareMatrix asks of the weights it is given, on every device.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

// InvalidArgument, with the numbers, unless there is at least one matrix and all are
// [at least 1, at least 1], F32, F16 or BF16, and of equal n_in.
absl::Status CheckWeights(std::span<const TensorView> weights);

}  // namespace lexico::kernels

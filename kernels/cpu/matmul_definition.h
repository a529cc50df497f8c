// The definition of MatMul (kernels/api/matmul.h) and the size of what it adds.
#pragma once

#include <span>

#include "kernels/api/tensor.h"

namespace lexico::kernels::cpu::definition {

// y [n_rows, sum of n_out] F32, with double accumulators; added to when `accumulate`. `magnitude`,
// of the shape of y, receives the sum of |terms| of every element, y's old value included.
void MatMul(TensorView x, std::span<const TensorView> weights, bool accumulate, MutableTensorView y,
            MutableTensorView magnitude);

}  // namespace lexico::kernels::cpu::definition

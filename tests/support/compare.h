// The judge of numeric tests.
//
// A tolerance here is arithmetic, not taste: a definition (kernels/cpu/*_definition.h) gives,
// beside each value, the sum of |terms| that were added to form it, and rounding in any order of
// summation is bounded by a small number of epsilons of that magnitude.
#pragma once

#include <gtest/gtest.h>

#include "kernels/api/tensor.h"

namespace lexico::tests {

// Spacing of the numbers of a type just above 1: 2^-23 F32, 2^-10 F16, 2^-7 BF16.
double Epsilon(kernels::DType dtype);

// Succeeds iff every element satisfies |actual - expected| <= ulps * epsilon(actual.dtype) *
// magnitude. Written so that NaN can only fail, on either side; infinities must be equal in sign.
// actual is F32, F16 or BF16; expected and magnitude are F32 of the same shape. On failure says how
// many of how many elements differ, and the worst and the first of them: coordinates, both values,
// difference and bound.
testing::AssertionResult IsClose(const kernels::TensorView& actual,
                                 const kernels::TensorView& expected,
                                 const kernels::TensorView& magnitude, double ulps);

// Succeeds iff both have the same type, shape and bits.
testing::AssertionResult SameBits(const kernels::TensorView& actual,
                                  const kernels::TensorView& expected);

}  // namespace lexico::tests

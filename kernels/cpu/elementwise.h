// The small dense ops on the CPU; contracts in kernels/api/elementwise.h.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/api/elementwise.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels::cpu {

void RmsNorm(TensorView x, TensorView weight, float epsilon, MutableTensorView y, int threads);
void RotateAndSplit(const RopeArgs& args, int threads);
void SwiGlu(TensorView gate_up, MutableTensorView y, int threads);
void Embed(TensorView table, std::span<const int32_t> ids, MutableTensorView y, int threads);

// y = exp(x) for x <= 0, element by element: the exponential of softmax and SwiGlu, here for its
// own test and bench.
void ExpNonPositive(std::span<const float> x, std::span<float> y);
// Of base 2, as PrefillAttention uses it.
void Exp2NonPositive(std::span<const float> x, std::span<float> y);

// Bound of the relative error of both, in units of 2^-23.
inline constexpr double kExpUlps = 1.5;

}  // namespace lexico::kernels::cpu

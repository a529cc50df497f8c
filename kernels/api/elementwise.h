// The small dense ops of a Llama-class block.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

// y = x / sqrt(mean(x^2) + epsilon) * weight, row by row. x, y [n_rows, n] F32 (y may be x), weight
// [n] F32.
void RmsNorm(TensorView x, TensorView weight, float epsilon, MutableTensorView y,
             const Stream& stream);

// Rotary position embedding in the half-split form of Hugging Face Llama checkpoints, in place:
// for i < head_dim / 2, angle = position * inv_frequency[i] (formed in double, cos and sin in
// double):
//   (x[i], x[i + head_dim/2]) <- (x[i] cos - x[i + h] sin, x[i + h] cos + x[i] sin)
// x is [n_rows, n_heads, head_dim] F32 with rows `row_stride` elements apart; positions [n_rows].
struct RopeArgs {
  float* x = nullptr;
  int64_t n_rows = 0;
  int64_t row_stride = 0;
  int n_heads = 0;
  int head_dim = 0;
  const int32_t* positions = nullptr;
  std::span<const double> inv_frequency;  // [head_dim / 2], after scaling (Llama-3, linear, ...)
};
void Rope(const RopeArgs& args, const Stream& stream);

// y[i] = silu(gate[i]) * up[i], silu(g) = g / (1 + exp(-g)). gate_up [n_rows, 2 * n] F32 holds gate
// then up in each row; y [n_rows, n] F32.
void SwiGlu(TensorView gate_up, MutableTensorView y, const Stream& stream);

// y[i] = table[ids[i]]; table [n_vocab, n] F32, F16 or BF16; ids [n_rows] in range; y [n_rows, n]
// F32.
void Embed(TensorView table, std::span<const int32_t> ids, MutableTensorView y,
           const Stream& stream);

// Converts n elements between F32, F16 and BF16, round to nearest even.
void Convert(TensorView from, MutableTensorView to, const Stream& stream);

}  // namespace lexico::kernels

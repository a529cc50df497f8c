// The small dense ops of a Llama-class block.
//
// On a GPU RmsNorm and SwiGlu also write F16 and BF16, rounded to nearest even, so that the next
// MatMul reads its input without a pass of its own (PreparedMatrix::input_type). Rows are
// independent: a row's bits do not depend on the batch around it. NaN stays in its row.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

// y = x / sqrt(mean(x^2) + epsilon) * weight, row by row. x [n_rows, n] F32, y [n_rows, n] (may be
// x where it is F32), weight [n] F32.
void RmsNorm(TensorView x, TensorView weight, float epsilon, MutableTensorView y,
             const Stream& stream);

// What follows the product with W_qkv: adds the bias, rotates queries and keys by their position,
// and splits a row into the three arrays that attention takes.
//
// Rotary position embedding in the half-split form of Hugging Face Llama checkpoints: for
// i < head_dim / 2 = h, angle = position * inv_frequency[i] (formed in double, cos and sin in
// double):
//   (y[i], y[i + h]) = (x[i] cos - x[i + h] sin, x[i + h] cos + x[i] sin)
struct RopeArgs {
  TensorView qkv;  // [n_rows, (n_heads + 2 n_kv_heads) * head_dim] F32: queries, keys, values
  const float* bias = nullptr;  // [as many as a row of qkv], added first; may be null
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;                       // even
  const int32_t* positions = nullptr;     // [n_rows], not negative
  const double* inv_frequency = nullptr;  // [head_dim / 2], after scaling (Llama-3, linear, ...)
  // Outputs, overwritten; none of them may overlap qkv.
  MutableTensorView q;  // [n_rows, n_heads, head_dim]    F32
  MutableTensorView k;  // [n_rows, n_kv_heads, head_dim] F32
  MutableTensorView v;  // [n_rows, n_kv_heads, head_dim] F32
};
void RotateAndSplit(const RopeArgs& args, const Stream& stream);

// y[i] = silu(gate[i]) * up[i], silu(g) = g / (1 + exp(-g)). gate_up [n_rows, 2 * n] F32 holds gate
// then up in each row; y [n_rows, n].
void SwiGlu(TensorView gate_up, MutableTensorView y, const Stream& stream);

// y[i] = table[ids[i]]; table [n_vocab, n] F32, F16 or BF16; ids [n_rows] in range; y [n_rows, n]
// F32. On a GPU the caller has looked at the ids: one out of range gives a row of NaN.
void Embed(TensorView table, std::span<const int32_t> ids, MutableTensorView y,
           const Stream& stream);

// Converts n elements between F32, F16 and BF16, round to nearest even.
void Convert(TensorView from, MutableTensorView to, const Stream& stream);

}  // namespace lexico::kernels

// Joins partial softmaxes over disjoint sets of tokens into attention output.
//
//   m = max_p max_score[p];  w_p = exp(max_score[p] - m)
//   out = sum_p w_p out[p] / sum_p w_p sum_exp[p]
//
// A part over no tokens has max_score -inf and sum_exp 0 and adds nothing. At least one part of
// every (sequence, head) must be non-empty; otherwise the output is 0.
#pragma once

#include <span>

#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

struct AttentionPart {
  TensorView out;        // [n_seqs, n_heads, head_dim]   F32
  TensorView max_score;  // [n_seqs, n_heads]             F32
  TensorView sum_exp;    // [n_seqs, n_heads]             F32
};

// Parts are added in the given order, at most 64 on a GPU. `out` [n_seqs, n_heads, head_dim] F32
// may be the `out` of a part; on a GPU it may be F16 or BF16, rounded to nearest even, as the next
// product reads it (PreparedMatrix::input_type).
void MergePartials(std::span<const AttentionPart> parts, MutableTensorView out,
                   const Stream& stream);

}  // namespace lexico::kernels

// Definition of SparseAttention, in double and in the order of the formula in
// kernels/api/sparse_attention.h. Do not make it faster: it is what "correct" means.
#pragma once

#include "kernels/api/sparse_attention.h"

namespace lexico::kernels::definition {

// How far rounding may move each output, as a magnitude to be multiplied by a small number of
// epsilons. With S[t] = scale * sum_i |q_i| m_i, m the magnitude of k^[t]
// (vector_code_definition.h), which are the terms of a score:
//   max_score  max_t S[t]
//   sum_exp    sum_t p[t] * (1 + S[t] + max S): an error of u in a score is a factor exp(u) in its
//              weight, and the maximum's error is in all of them
//   out        sum_t p[t] * (1 + S[t] + max S) * the magnitude of v^[t]
struct SparseAttentionMagnitudes {
  MutableTensorView out;        // [n_seqs, n_heads, head_dim]   F32
  MutableTensorView max_score;  // [n_seqs, n_heads]             F32
  MutableTensorView sum_exp;    // [n_seqs, n_heads]             F32
};

void SparseAttention(const SparseAttentionArgs& args, const SparseAttentionMagnitudes& magnitudes);

}  // namespace lexico::kernels::definition

// Decode attention of one step over coded pages, without ever forming a dense K or V.
//
//   score[t] = scale * <q, k^[t]>
//            = scale * (sum_j coef_k[t,j] * <q, D_k[atom_k[t,j]]> + residual_scale_k[t] * <R q, l>)
//   out      = sum_t exp(score[t] - max) * v^[t]
//   v^[t]    = sum_j coef_v[t,j] * D_v[atom_v[t,j]] + residual_scale_v[t] * R^T l
//
// where a code without a residual, as the paper's, or without atoms lacks that term (residual.h).
// The inner products <q, D_k[a]> are formed once per query head for all atoms, after which a token
// costs `sparsity` table look-ups instead of head_dim multiplications. On the V side the weights
// are summed per atom, z[a] += p c, and multiplied by D_v once (Lexico, arXiv 2412.08890,
// section 3.3); residuals are summed in the rotated space and rotated back once.
//
// Cost per query head: 4 * n_atoms * head_dim FLOP, and per token 2 * sparsity multiply-adds; bytes
// read per (token, KV head): those of the two codes, such as 3 * (sparsity_k + sparsity_v), against
// 4 * head_dim for a dense FP16 cache.
//
// The dense window is another op (dense_attention.h). Both return PARTIAL softmaxes, joined by
// merge_partials.h; a caller that forgets the merge gets unnormalised sums.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/api/code_layout.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

struct SparseAttentionArgs {
  // Inputs: n_seqs sequences, one query token each; sequence i reads pages
  // [page_begin[i], page_begin[i + 1]) of `pages`, whole pages only. On a GPU page_begin is the
  // only array in host memory, read before the call returns; what a pointer and
  // page_offset give is aligned to 64 bytes.
  TensorView q;                           // [n_seqs, n_heads, head_dim]   F32, after RoPE
  const uint8_t* const* pages = nullptr;  // payloads of this layer
  const int64_t* page_begin = nullptr;    // [n_seqs + 1], first is 0, non-decreasing
  // [n_seqs], in the stream's memory: how many of its pages each sequence has, the first ones; more
  // are taken for all of them. Null: all. Then a recorded graph serves sequences that grow. On a
  // GPU the order of sums follows page_begin too.
  const int32_t* n_pages = nullptr;
  int64_t page_offset = 0;  // bytes added to every page pointer, such as those of earlier layers
  PageLayout layout;
  const PreparedDictionary* dictionary_k = nullptr;  // may be null without atoms
  const PreparedDictionary* dictionary_v = nullptr;
  float scale = 0;  // usually 1/sqrt(head_dim); no default on purpose: 0 is rejected

  // Outputs, overwritten.
  MutableTensorView out;        // [n_seqs, n_heads, head_dim]   F32, sum of exp-weighted V
  MutableTensorView max_score;  // [n_seqs, n_heads]             F32, -inf for an empty sequence
  MutableTensorView sum_exp;    // [n_seqs, n_heads]             F32, 0 for an empty sequence

  // Where the pages of a sequence end. REQUIRES: a CPU stream
  int64_t PagesEnd(int64_t seq) const {
    if (n_pages == nullptr) return page_begin[seq + 1];
    return std::min<int64_t>(page_begin[seq + 1], page_begin[seq] + n_pages[seq]);
  }
};

// n_heads is a multiple of n_kv_heads; query head h reads KV head h / (n_heads / n_kv_heads).
// Deterministic, and a sequence's result does not depend on its neighbours or the number of
// threads.
void SparseAttention(const SparseAttentionArgs& args, const Stream& stream);

}  // namespace lexico::kernels

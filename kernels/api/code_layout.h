// The bytes of the codes of one page: what kernels read, what pages store, what travels.
//
// A page holds page_tokens consecutive tokens of one layer, all KV heads, K and V. Coded payload:
//
//   for kind in (K, V):
//     for head in 0 .. n_kv_heads-1:
//       a block of page_tokens vectors, as proto/base/vector_code.h lays it out
//
// Of the paper's code that is
//
//       atoms  u16 [page_tokens, sparsity]     a vector's in any order: coded on a CPU, the one in
//                                              which OMP chose them; on a GPU, the one of
//                                              kernels/cuda/code_order.h
//       coefs  u8  [page_tokens, sparsity]     FP8 E4M3FN (OCP: bias 7, largest 448, no infinity)
//
// A vector that took fewer atoms is padded with (atom 0, coefficient 0), which adds exactly
// nothing. The paper counts 3s + 2 bytes because its vectors are ragged; here they are 3s.
// page_tokens is even, so every atoms array is 2-byte aligned when the page is (pages are 64-byte
// aligned in the arena).
//
// Dense payload (profile `dense`): kind-major [2, n_kv_heads, page_tokens, head_dim] of the cache
// type (BF16, F16 or F32).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/api/tensor.h"
#include "proto/base/vector_code.h"

namespace lexico::kernels {

using base::CodeForm;
using base::VectorCode;

// How the pages of a session are laid out. Constant over a session's life.
struct PageLayout {
  int n_kv_heads = 0;
  int head_dim = 0;
  int page_tokens = 0;
  // All empty: a dense page of `dense_type`; otherwise K and V both have atoms or a residual.
  int sparsity_k = 0;
  int sparsity_v = 0;
  DType dense_type = DType::kBF16;
  CodeForm form_k = {};
  CodeForm form_v = {};

  bool operator==(const PageLayout&) const = default;
  VectorCode code(bool value) const {
    return value ? VectorCode{sparsity_v, form_v} : VectorCode{sparsity_k, form_k};
  }
  bool is_dense() const { return code(false).is_empty(); }
  // What kernels of the paper's code alone can read.
  bool is_paper() const { return code(false).is_paper() && code(true).is_paper(); }

  size_t dense_head_bytes() const {
    return static_cast<size_t>(page_tokens) * head_dim * DTypeBytes(dense_type);
  }
  // Of the paper's code: where the coefficients follow the atoms.
  size_t atoms_bytes(int sparsity) const { return static_cast<size_t>(page_tokens) * sparsity * 2; }
  size_t head_bytes(bool value) const {
    if (is_dense()) return dense_head_bytes();
    return code(value).block_bytes(static_cast<size_t>(page_tokens), head_dim);
  }
  // Offset of the block of one head.
  size_t head_offset(bool value, int head) const {
    return (value ? n_kv_heads * head_bytes(false) : 0) + head * head_bytes(value);
  }
  size_t payload_bytes() const { return n_kv_heads * (head_bytes(false) + head_bytes(true)); }
  // The same tokens as a dense FP16 cache.
  size_t fp16_equivalent_bytes() const {
    return static_cast<size_t>(2) * n_kv_heads * page_tokens * head_dim * 2;
  }
};

}  // namespace lexico::kernels

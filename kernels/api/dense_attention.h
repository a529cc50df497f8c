// Attention over dense keys and values.
//
//   DenseAttention     decode: one query per sequence over rows that lie in pieces (window, pages)
//   PrefillAttention   many queries of one sequence, causal, over contiguous rows
//
// DenseAttention returns PARTIAL softmaxes to be joined by merge_partials.h; PrefillAttention is
// final.
#pragma once

#include <cstdint>

#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

// A run of tokens: key of (token t, head h) at k + t * token_stride + h * head_stride, likewise v.
// Strides count elements. A window is token-major (token_stride = n_kv_heads * head_dim,
// head_stride = head_dim); a dense page is head-major (token_stride = head_dim, head_stride =
// page_tokens * head_dim).
struct DensePiece {
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t n_tokens = 0;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
};

struct DenseAttentionArgs {
  // Inputs: sequence i reads pieces [piece_begin[i], piece_begin[i + 1]).
  TensorView q;  // [n_seqs, n_heads, head_dim]   F32, after RoPE
  const DensePiece* pieces = nullptr;
  const int64_t* piece_begin = nullptr;  // [n_seqs + 1], first is 0, non-decreasing
  int n_kv_heads = 0;
  DType kv_type = DType::kBF16;  // of every piece: BF16, F16 or F32
  float scale = 0;               // usually 1/sqrt(head_dim); 0 is rejected

  // Outputs, overwritten; as in sparse_attention.h.
  MutableTensorView out;        // [n_seqs, n_heads, head_dim]   F32
  MutableTensorView max_score;  // [n_seqs, n_heads]             F32
  MutableTensorView sum_exp;    // [n_seqs, n_heads]             F32
};

// Deterministic; independent of neighbours and threads.
void DenseAttention(const DenseAttentionArgs& args, const Stream& stream);

struct PrefillAttentionArgs {
  // Inputs. Query i stands at position first_position + i and sees keys 0 .. first_position + i.
  TensorView q;  // [n_queries, n_heads, head_dim]     F32, after RoPE
  TensorView k;  // [n_keys, n_kv_heads, head_dim]     F32, after RoPE; n_keys >= first_position +
                 // n_queries
  TensorView v;  // [n_keys, n_kv_heads, head_dim]     F32
  int64_t first_position = 0;
  float scale = 0;
  // On a CPU with AMX or AVX512_BF16: round operands to BF16, several times as fast. False for
  // models whose weights are F32, which expect F32 results. No effect elsewhere.
  bool allow_bf16 = true;

  // Output, overwritten: normalised attention.
  MutableTensorView out;  // [n_queries, n_heads, head_dim]   F32
};

// Blocked online softmax (FlashAttention's recurrence), matrix products on the best unit of the
// machine; on AMX and AVX512_BF16 operands are rounded to BF16 if allowed. FLOP: 4 * head_dim per
// (query head, visible key). Deterministic; on one machine a query's result has the same bits
// whatever chunk it comes in and however many threads there are. Keys and values past the last
// query's position are not read.
void PrefillAttention(const PrefillAttentionArgs& args, const Stream& stream);

}  // namespace lexico::kernels

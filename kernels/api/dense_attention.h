// Attention over dense keys and values.
//
//   DenseAttention     decode: one query per sequence over whole dense pages, then a run of rows
//   PrefillAttention   many queries of one sequence, causal, over contiguous rows
//
// DenseAttention returns PARTIAL softmaxes to be joined by merge_partials.h; PrefillAttention is
// final.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/api/code_layout.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

// A run of rows, token-major: key of (token t, head h) at k + (t * n_kv_heads + h) * head_dim
// elements, likewise v. A window, or the keys and values of a prompt.
struct DenseRows {
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t n_tokens = 0;
};

struct DenseAttentionArgs {
  // Inputs. Sequence i reads the dense pages [page_begin[i], page_begin[i + 1]) of `pages`, then
  // the rows of rows[i]. `rows` lies in the stream's memory, so that a recorded graph finds the
  // lengths of the day there; page_begin and rows_max are read before the call returns. On a GPU
  // head_dim is a multiple of 8, and pages (with page_offset) and rows are aligned to 16 bytes.
  TensorView q;                           // [n_seqs, n_heads, head_dim]   F32, after RoPE
  const DenseRows* rows = nullptr;        // [n_seqs]; null: no sequence has any
  int64_t rows_max = 0;                   // no rows[i].n_tokens is larger
  const uint8_t* const* pages = nullptr;  // payloads of this layer
  const int64_t* page_begin = nullptr;    // [n_seqs + 1], first is 0; null: no sequence has pages
  const int32_t* n_pages = nullptr;       // [n_seqs] or null, as in sparse_attention.h
  int64_t page_offset = 0;                // bytes added to every page pointer
  PageLayout layout;                      // dense, of kv_type; not read where there are no pages
  int n_kv_heads = 0;
  DType kv_type = DType::kBF16;  // of pages and rows: BF16, F16 or F32
  float scale = 0;               // usually 1/sqrt(head_dim); 0 is rejected

  // Outputs, overwritten; as in sparse_attention.h.
  MutableTensorView out;        // [n_seqs, n_heads, head_dim]   F32
  MutableTensorView max_score;  // [n_seqs, n_heads]             F32
  MutableTensorView sum_exp;    // [n_seqs, n_heads]             F32

  // As in sparse_attention.h.
  int64_t PagesEnd(int64_t seq) const {
    if (n_pages == nullptr) return page_begin[seq + 1];
    return std::min<int64_t>(page_begin[seq + 1], page_begin[seq] + n_pages[seq]);
  }
};

// FLOP: 4 * head_dim per (query head, token); bytes read per (token, KV head): 2 * head_dim of
// kv_type. Deterministic; a sequence's result has the same bits whatever else is in the batch and
// however many threads there are.
void DenseAttention(const DenseAttentionArgs& args, const Stream& stream);

struct PrefillAttentionArgs {
  // Inputs. Query i stands at position first_position + i and sees keys 0 .. first_position + i.
  // k and v have one type: F32; on a GPU BF16 and F16 too. q and out are F32, or of that type. On a
  // GPU rows are aligned to 16 bytes if head_dim is a multiple of 8.
  TensorView q;  // [n_queries, n_heads, head_dim]     after RoPE
  TensorView k;  // [n_keys, n_kv_heads, head_dim]     after RoPE; n_keys >= first_position +
                 // n_queries
  TensorView v;  // [n_keys, n_kv_heads, head_dim]
  int64_t first_position = 0;
  float scale = 0;
  // Products of operands rounded to 16 bits, several times as fast: on a CPU with AMX or
  // AVX512_BF16 to BF16; on a GPU to the type of k and v, BF16 where they are F32. False for models
  // whose weights are F32, which expect F32 results. No effect elsewhere, nor on a GPU where
  // head_dim is no multiple of 8.
  bool allow_bf16 = true;

  // Output, overwritten: normalised attention.
  MutableTensorView out;  // [n_queries, n_heads, head_dim]
};

// Blocked online softmax (FlashAttention's recurrence), matrix products on the best unit of the
// machine. FLOP: 4 * head_dim per (query head, visible key). Deterministic; on one machine a
// query's result has the same bits whatever chunk it comes in and however many threads there are.
// Keys and values past the last query's position are not read.
void PrefillAttention(const PrefillAttentionArgs& args, const Stream& stream);

}  // namespace lexico::kernels

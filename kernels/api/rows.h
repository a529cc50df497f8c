// Rows of keys and values on their way into the cache: rounding, windows, pages.
//
// Pages and window rows are named by arrays of pointers, as a page table holds them; the arrays,
// and what they point to, lie in the stream's memory. Pages are aligned to 64 bytes. All ops are
// deterministic, and what they write for a row or a page follows from it alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/api/code_layout.h"
#include "kernels/api/elementwise.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

// Rounds x, F32, in place to F32, F16 or BF16 `type`, to nearest even, as the cache will keep it.
// *non_finite, in the stream's memory, is set to 1 when a number is then not finite, else left.
void RoundToType(MutableTensorView x, DType type, int32_t* non_finite, const Stream& stream);

// One key and one value row of every sequence to its place in the sequence's window.
struct StoreRowsArgs {
  TensorView k;                   // [n_seqs, row_dim] F32
  TensorView v;                   // [n_seqs, row_dim] F32
  void* const* k_rows = nullptr;  // [n_seqs], each [row_dim] of `type`, rounded to nearest even
  void* const* v_rows = nullptr;  // [n_seqs]
  DType type = DType::kBF16;      // F32, F16 or BF16
  int32_t* non_finite = nullptr;  // [n_seqs], overwritten: kNonFiniteKey | kNonFiniteValue, of the
                                  // numbers as stored
};
inline constexpr int32_t kNonFiniteKey = 1;
inline constexpr int32_t kNonFiniteValue = 2;
void StoreRows(const StoreRowsArgs& args, const Stream& stream);

// RotateAndSplit, then StoreRows of its k and v (rows.k and rows.v), to the same bits; on a GPU in
// one pass, which leaves k and v as they were. REQUIRES: rows.non_finite[i] is 0.
void RotateAndStore(const RopeArgs& rope, const StoreRowsArgs& rows, const Stream& stream);

// Codes of OmpEncode, in the order [page, token, head, sparsity], into one half of coded pages
// (code_layout.h). The codes of one vector keep their order on a CPU; on a GPU they take the one in
// which its attention finds its look-ups soonest.
struct PackCodesArgs {
  PageLayout layout;
  bool value = false;               // the half: keys or values
  TensorView atoms;                 // [n_pages * page_tokens * n_kv_heads, sparsity]  U16
  TensorView coefs;                 // [n_pages * page_tokens * n_kv_heads, sparsity]  U8
  TensorView rel_error;             // [n_pages * page_tokens * n_kv_heads]            F32
  uint8_t* const* pages = nullptr;  // [n_pages]
  size_t page_offset = 0;           // bytes from pages[i] to the payload
  float* page_error = nullptr;      // [n_pages], overwritten: the mean of the page's rel_error,
                                    // added up in double and in order
};
void PackCodes(const PackCodesArgs& args, const Stream& stream);

// Rows [n_pages * page_tokens, n_kv_heads, head_dim] F32 and one half of dense pages, which is
// [n_kv_heads, page_tokens, head_dim] of layout.dense_type. PackDense rounds to nearest even.
struct PackDenseArgs {
  PageLayout layout;
  bool value = false;
  TensorView rows;
  uint8_t* const* pages = nullptr;  // [n_pages]
  size_t page_offset = 0;
};
void PackDense(const PackDenseArgs& args, const Stream& stream);

struct UnpackDenseArgs {
  PageLayout layout;
  bool value = false;
  const uint8_t* const* pages = nullptr;  // [n_pages]
  size_t page_offset = 0;
  MutableTensorView rows;
};
void UnpackDense(const UnpackDenseArgs& args, const Stream& stream);

// n blocks of `bytes` each, from from[i] to to[i]: scattered pages into one staging buffer, and
// back. REQUIRES: no block is written that another one reads or writes.
void CopyBlocks(const void* const* from, void* const* to, int64_t n, size_t bytes,
                const Stream& stream);

}  // namespace lexico::kernels

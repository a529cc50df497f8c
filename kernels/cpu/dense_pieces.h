// The tokens of DenseAttention's sequences as runs of rows with two strides: pages are head-major,
// rows token-major.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/api/dense_attention.h"

namespace lexico::kernels::cpu {

// Key of (token t, head h) at k + t * token_stride + h * head_stride elements, likewise v.
struct DensePiece {
  const uint8_t* k;
  const uint8_t* v;
  int64_t n_tokens;
  int64_t token_stride;
  int64_t head_stride;
};

// The pieces of one sequence, in the order of its tokens. CHECK-fails where a run of rows is longer
// than the caller said.
inline std::vector<DensePiece> PiecesOf(const DenseAttentionArgs& args, int64_t seq) {
  std::vector<DensePiece> pieces;
  const int64_t head_dim = args.q.dim(2);
  if (args.page_begin != nullptr) {
    const PageLayout& layout = args.layout;
    for (int64_t p = args.page_begin[seq]; p < args.PagesEnd(seq); ++p) {
      const uint8_t* page = args.pages[p] + args.page_offset;
      pieces.push_back({page + layout.head_offset(false, 0), page + layout.head_offset(true, 0),
                        layout.page_tokens, head_dim, layout.page_tokens * head_dim});
    }
  }
  if (args.rows != nullptr) {
    const DenseRows& rows = args.rows[seq];
    LEXICO_CHECK_LE(rows.n_tokens, args.rows_max);
    pieces.push_back({static_cast<const uint8_t*>(rows.k), static_cast<const uint8_t*>(rows.v),
                      rows.n_tokens, args.n_kv_heads * head_dim, head_dim});
  }
  return pieces;
}

}  // namespace lexico::kernels::cpu

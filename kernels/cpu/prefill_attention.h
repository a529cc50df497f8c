// Causal attention of many queries on the CPU; contract in kernels/api/dense_attention.h.
#pragma once

#include "kernels/api/dense_attention.h"
#include "kernels/cpu/bf16_tile.h"

namespace lexico::kernels::cpu {

// Keys of one tile of the online softmax, counted from key 0. The boundaries do not depend
// on the queries of a call, and a row's sums are formed in the order of the keys: a query's result
// has the same bits whatever chunk it comes in.
inline constexpr int64_t kPrefillTileKeys = 128;
// Of the BF16 path; measured in prefill_attention_bf16.cc.
inline constexpr int64_t kPrefillTileKeysBf16 = 512;

// Chooses: in BF16 by `unit` where there is one and the call allows it, else in F32.
void PrefillAttention(const PrefillAttentionArgs& args, const Bf16Tile* unit, int threads);

// In F32 on the vector unit (prefill_attention_simd.cc).
void PrefillAttentionF32(const PrefillAttentionArgs& args, int threads);

// With the products in BF16 (prefill_attention_bf16.cc): q, k, v and the exponentials are rounded
// to BF16, scores and sums are F32.
void PrefillAttentionBf16(const PrefillAttentionArgs& args, const Bf16Tile& unit, int threads);

}  // namespace lexico::kernels::cpu

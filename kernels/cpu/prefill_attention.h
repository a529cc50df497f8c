// Causal attention of many queries on the CPU; contract in kernels/api/dense_attention.h.
#pragma once

#include "kernels/api/dense_attention.h"
#include "kernels/cpu/matmul_onednn.h"

namespace lexico::kernels::cpu {

// Keys of one tile of the online softmax in F32, counted from key 0. The boundaries do not depend
// on the queries of a call, and a row's sums are formed in the order of the keys: a query's result
// has the same bits whatever chunk it comes in.
inline constexpr int64_t kPrefillTileKeys = 128;
// Of the BF16 path: larger, because a call into oneDNN costs a few microseconds.
inline constexpr int64_t kPrefillTileKeysBf16 = 512;

// Chooses: BF16 through oneDNN where `unit` has it and the call allows it, else F32.
void PrefillAttention(const PrefillAttentionArgs& args, Bf16UnitKind unit, int threads);

// In F32 on the vector unit (prefill_attention_simd.cc).
void PrefillAttentionF32(const PrefillAttentionArgs& args, int threads);

// With the products in BF16 by oneDNN (prefill_attention_onednn.cc): q, k, v and the exponentials
// are rounded to BF16, scores and sums are F32. REQUIRES: AVX512_BF16 or AMX.
void PrefillAttentionBf16(const PrefillAttentionArgs& args, int threads);

// One row of the online softmax over `n` scores of base 2, of which the first `visible` are seen:
// writes exp2(score - max) rounded to BF16 (0 for unseen ones), updates *max and *sum (of the
// rounded exponentials, so that weights add up to 1) and returns the factor of what was summed
// before.
float SoftmaxRowBf16(const float* scores, int64_t n, int64_t visible, float* max, float* sum,
                     uint16_t* weights);

}  // namespace lexico::kernels::cpu

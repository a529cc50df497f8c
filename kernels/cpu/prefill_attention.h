// Causal attention of many queries on the CPU; contract in kernels/api/dense_attention.h.
#pragma once

#include "kernels/api/dense_attention.h"
#include "kernels/cpu/matmul_onednn.h"

namespace lexico::kernels::cpu {

// Keys of one tile of the online softmax, counted from key 0. The boundaries do not depend on the
// queries of a call, and a row's sums are formed in the order of the keys: a query's result has the
// same bits whatever chunk it comes in.
inline constexpr int64_t kPrefillTileKeys = 128;

// In F32 on the vector unit (prefill_attention_simd.cc).
void PrefillAttention(const PrefillAttentionArgs& args, int threads);

}  // namespace lexico::kernels::cpu

// Attention over dense keys and values on the CPU; contracts in kernels/api/dense_attention.h.
#pragma once

#include <cstdint>

#include "kernels/api/dense_attention.h"

namespace lexico::kernels::cpu {

// Tokens of one part of a sequence in DenseAttention, counted from the sequence's first token: the
// unit of work and of rounding, whatever the number of threads. 256 KB of BF16 keys and values at
// head_dim 128, so that a part's rows stay in L2 between its two passes.
inline constexpr int64_t kDensePartTokens = 512;

void DenseAttention(const DenseAttentionArgs& args, int threads);

}  // namespace lexico::kernels::cpu

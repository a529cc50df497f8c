// Codes of tokens into the order of code_order.h, by a warp.
#pragma once

#include "kernels/cuda/code_order.h"
#include "kernels/cuda/warp.cuh"

namespace lexico::kernels::cuda {

// The schedule [sparsity] of n_tokens tokens, atoms [n_tokens, sparsity] in shared memory, by all
// lanes of a warp together, which do the same but for counting.
__device__ inline void OrderGroup(const uint16_t* atoms, int sparsity, int n_tokens,
                                  TokenBanks* banks) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  BankCounts mine = 0;
  for (int i = 0; lane < n_tokens && i < sparsity; ++i) mine += CountOf(atoms[lane * sparsity + i]);
  BankCounts counts[kOrderTokens];
#pragma unroll
  for (int t = 0; t < kOrderTokens; ++t) counts[t] = __shfl_sync(~0u, mine, t);
  BankSchedule schedule(counts);
  for (int place = 0; place < sparsity; ++place) {
    const TokenBanks next = schedule.Next(n_tokens);
    if (lane == 0) banks[place] = next;
  }
}

}  // namespace lexico::kernels::cuda

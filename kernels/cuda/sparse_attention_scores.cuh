// SparseAttention, first half: scores of all tokens, by look-ups in the table.
#pragma once

#include "kernels/cuda/sparse_attention_common.cuh"

namespace lexico::kernels::cuda {

// The largest code of |coefficient| among the value coefficients of one tile; kE4m3Nan if one is
// NaN. All lanes of a warp together; valid in all.
__device__ inline uint32_t CoefMax(const CodePages& values, const TilePages& tile) {
  const int page_bytes = values.page_tokens * values.sparsity;
  const bool wide = page_bytes % 16 == 0 && values.head_bytes % 16 == 0 &&
                    values.kind_bytes % 16 == 0 && values.atoms_bytes % 16 == 0;
  const int unit = wide ? 16 : 1;
  const int units = page_bytes / unit;
  uint32_t odd = 0;  // bytes 1 and 3 of words, in the high bytes of their halves
  uint32_t even = 0;
  const auto take = [&](uint32_t word) {
    odd = __vmaxu2(odd, word & 0x7f7f7f7fu);
    even = __vmaxu2(even, word << 8 & 0x7f007f00u);
  };
#pragma unroll 4
  for (int first = 0; first < tile.n_pages * units; first += kWarp) {
    const int i = min(first + static_cast<int>(threadIdx.x % kWarp), tile.n_pages * units - 1);
    const uint8_t* from = values.Coefs(tile.At(i / units), 0) + i % units * unit;
    if (wide) {
      const uint4 words = *reinterpret_cast<const uint4*>(from);
      take(words.x), take(words.y), take(words.z), take(words.w);
    } else {
      take(*from);
    }
  }
  const uint32_t both = __vmaxu2(odd, even);
  return __reduce_max_sync(kAllLanes, max(both >> 24, both >> 8 & 0xffu));
}

// One tile's scores. The next run of codes is on its way while one is looked up.
template <int kLanes, int kRun>
__device__ OnlineSums<kLanes> ScoreTile(const CodePages& keys, const TilePages& tile,
                                        const Lanes<kLanes>* table, Lanes<kLanes>* scores) {
  const int n_tokens = tile.n_pages * keys.page_tokens;
  OnlineSums<kLanes> sums;
  TokenCodes<CodeRun<kRun>> codes(keys, tile, threadIdx.x % kWarp);
  for (int first = 0; first < n_tokens; first += kWarp) {
    const int token = codes.token();
    Lanes<kLanes> score = {};
    codes.ForEachRun([&](const CodeRun<kRun>& run) {
      run.ForEach([&](uint32_t atom, float c) {
        const Lanes<kLanes> entry = table[atom];
#pragma unroll
        for (int g = 0; g < kLanes; ++g) score.v[g] = fmaf(c, entry.v[g], score.v[g]);
      });
    });
    if (token >= n_tokens) continue;
    scores[token] = score;
#pragma unroll
    for (int g = 0; g < kLanes; ++g) sums.Add(g, {score.v[g], 1});
  }
  return sums;
}

// scores, and of each tile its HeadSums and its largest value coefficient. A warp takes a tile, a
// lane every 32nd of its tokens. Shared: the item's table [n_atoms, kLanes].
template <int kLanes, int kRun>
__global__ void __launch_bounds__(kTileThreads, 1)
    ScoreKernel(const __grid_constant__ SparsePlan plan, const __grid_constant__ CodePages keys,
                const __grid_constant__ CodePages values, int n_atoms, SparseArrays arrays) {
  extern __shared__ float4 shared[];
  auto* table = reinterpret_cast<Lanes<kLanes>*>(shared);
  const BlockWork work(plan, blockIdx.x);
  WaitForPrevious();
  const auto* from = reinterpret_cast<const Lanes<kLanes>*>(arrays.tables) +
                     static_cast<int64_t>(work.wave_item(plan)) * n_atoms;
#pragma unroll 4
  for (int a = threadIdx.x; a < n_atoms; a += kTileThreads) table[a] = from[a];
  __syncthreads();

  const int kv_head = plan.KvHead(work.item);
  auto* scores =
      reinterpret_cast<Lanes<kLanes>*>(arrays.scores) + plan.FirstToken(work.seq, work.item);
  for (int t = work.tile_begin + threadIdx.x / kWarp; t < work.tile_end;
       t += kTileThreads / kWarp) {
    const TilePages tile(plan, keys, kv_head, work.seq, t);
    const OnlineSums<kLanes> sums =
        ScoreTile<kLanes, kRun>(keys, tile, table, scores + tile.first * plan.page_tokens);
    const uint32_t coef_max = CoefMax(values, TilePages(plan, values, kv_head, work.seq, t));
    const int64_t place = plan.FirstTile(work.seq, work.item) + t;
#pragma unroll
    for (int g = 0; g < kLanes; ++g) {
      const HeadSums head = sums.OfWarp(g);
      if (threadIdx.x % kWarp == 0) arrays.tiles[place * kLanes + g] = head;
    }
    if (threadIdx.x % kWarp == 0) arrays.largest[place] = coef_max;
  }
}

}  // namespace lexico::kernels::cuda

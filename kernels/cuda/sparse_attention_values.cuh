// SparseAttention, second half: z[a] = sum_t p[t] c in integers.
#pragma once

#include <cmath>

#include "kernels/cuda/code_order.h"
#include "kernels/cuda/sparse_attention_common.cuh"

namespace lexico::kernels::cuda {

inline constexpr uint32_t kE4m3Nan = 0x7f;

// How many units of z are 1: a power of two, so that no sum over the codes of an item reaches 2^31.
// |z| <= sum_t p[t] * sparsity * coef_max, below 2^30 here; rounding adds at most half a unit a
// token. 0 if there is nothing to add, or a number that is none: then the item's result is NaN
// (FinishKernel).
__device__ inline float UnitsPerOne(float bound) {
  if (!(bound > 0 && bound < INFINITY)) return 0;
  return exp2f(static_cast<float>(29 - ilogbf(bound)));
}

__device__ inline float UnitsPerOne(float sum_exp, int sparsity, uint32_t coef_max) {
  return UnitsPerOne(sum_exp * static_cast<float>(sparsity) * E4m3PairToFloat(coef_max).x);
}

// What all lanes of ValueKernel need of an item.
template <int kLanes>
struct ItemSums {
  float max[kLanes];
  float units_per_one[kLanes];
  float coef_max;
};

template <int kLanes>
struct WarpSums {
  float max[kTileThreads / kWarp][kLanes];
  float sum[kTileThreads / kWarp][kLanes];
  uint32_t largest[kTileThreads / kWarp];
};

// By all threads of a block, with its barriers: the sums of the item's tiles, in an order that
// depends on nothing but their number, and the largest of their `largest`, as WarpLargest; one lane
// calls set(head, sums, largest) for each head. `warps` lies in shared memory.
template <int kLanes, bool kHalves, typename Set>
__device__ void JoinTiles(const SparsePlan& plan, const BlockWork& work, const SparseArrays& arrays,
                          WarpSums<kLanes>& warps, const Set& set) {
  constexpr int kWarps = kTileThreads / kWarp;
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int n_tiles = plan.UsedTiles(work.seq);
  const int64_t first_tile = plan.FirstTile(work.seq, work.item);
  OnlineSums<kLanes> mine;
  uint32_t largest = 0;
  for (int t = threadIdx.x; t < n_tiles; t += kTileThreads) {
    const uint32_t word = arrays.largest[first_tile + t];
    largest = kHalves ? __vmaxu2(largest, word) : max(largest, word);
#pragma unroll
    for (int g = 0; g < kLanes; ++g) mine.Add(g, arrays.tiles[(first_tile + t) * kLanes + g]);
  }
  largest = WarpLargest<kHalves>(largest);
#pragma unroll
  for (int g = 0; g < kLanes; ++g) {
    const HeadSums head = mine.OfWarp(g);
    if (lane == 0) warps.max[warp][g] = head.max, warps.sum[warp][g] = head.sum;
  }
  if (lane == 0) warps.largest[warp] = largest;
  __syncthreads();
  const int g = warp;
  if (g >= kLanes) return;
  static_assert(kWarps == kWarp);
  largest = WarpLargest<kHalves>(warps.largest[lane]);
  const float max = WarpMax(warps.max[lane][g]);
  const float sum = WarpSum(warps.sum[lane][g] * __expf(warps.max[lane][g] - max));
  if (lane == 0) set(g, HeadSums{max, sum}, largest);
}

// `sums` from the item's tiles; by all threads of a block, with a barrier.
template <int kLanes>
__device__ void SetItemSums(const SparsePlan& plan, const BlockWork& work, const CodePages& values,
                            const SparseArrays& arrays, WarpSums<kLanes>& warps,
                            ItemSums<kLanes>& sums) {
  JoinTiles<kLanes, false>(
      plan, work, arrays, warps, [&](int g, const HeadSums& head, uint32_t coef_max) {
        const float units_per_one = UnitsPerOne(head.sum, values.sparsity, coef_max);
        sums.max[g] = head.max;
        sums.units_per_one[g] = units_per_one;
        if (g == 0) sums.coef_max = E4m3PairToFloat(coef_max).x;
        if (work.tile_begin > 0) return;
        const int64_t place = static_cast<int64_t>(work.wave_item(plan)) * kLanes + g;
        const bool nan = coef_max == kE4m3Nan;
        arrays.heads[place] = head;
        arrays.units[place] = nan ? NAN : units_per_one == 0 ? 0.0f : 1 / units_per_one;
      });
}

// Element k is element k ^ by of `from`, by selections: an index would send the array to local
// memory.
template <int kLanes>
__device__ Lanes<kLanes> Swapped(const Lanes<kLanes>& from, int by) {
  Lanes<kLanes> to = from;
#pragma unroll
  for (int bit = 1; bit < kLanes; bit *= 2) {
    const Lanes<kLanes> before = to;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) to.v[k] = (by & bit) != 0 ? before.v[k ^ bit] : before.v[k];
  }
  return to;
}

// Round to nearest even, as __float2int_rn, which a multiprocessor does for 16 lanes at a time
// while it adds for 128: the sum with kMagic has the integer in the low bits of its significand.
inline constexpr float kMagic = 12582912;    // 1.5 * 2^23
inline constexpr float kMagicMax = 4194304;  // |a * b| below 2^22
__device__ inline int32_t RoundProduct(float a, float b) {
  return __float_as_int(fmaf(a, b, kMagic)) - 0x4b400000;
}

// Without a result, and by a 32-bit address.
__device__ inline void AddShared(uint32_t address, int32_t value) {
  asm volatile("red.shared.add.s32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

// Adds one tile's weights to z [n_atoms, kLanes]. A lane takes every 32nd token. Eight lanes, a
// quarter of the warp, have eight consecutive tokens, whose k-th atoms code_order.h keeps apart;
// each quarter begins with another head, so that the warp meets all banks.
template <int kLanes, typename Run, typename Pages>
__device__ void AddTile(const Pages& values, const TilePages& tile, const ItemSums<kLanes>& sums,
                        const Lanes<kLanes>* scores, int32_t* z) {
  const int n_tokens = tile.n_pages * values.page_tokens;
  const int first_head = static_cast<int>(threadIdx.x % kWarp / kOrderTokens) % kLanes;
  float max[kLanes];
  float units_per_one[kLanes];
  uint32_t place[kLanes];  // of atom 0, in shared memory
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    place[k] = static_cast<uint32_t>(__cvta_generic_to_shared(z + (first_head ^ k)));
    max[k] = sums.max[first_head ^ k];
    units_per_one[k] = sums.units_per_one[first_head ^ k];
  }
  const float coef_max = sums.coef_max;
  TokenCodes<Run, Pages> codes(values, tile, threadIdx.x % kWarp);
  Lanes<kLanes> scores_ahead = scores[min(codes.token(), n_tokens - 1)];
  for (int first = 0; first < n_tokens; first += kWarp) {
    const bool real = codes.token() < n_tokens;
    const Lanes<kLanes> score = Swapped(scores_ahead, first_head);
    scores_ahead = scores[min(codes.token() + kWarp, n_tokens - 1)];
    float weight[kLanes];
    float largest = 0;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) {
      weight[k] = ExpOfNegative(score.v[k] - max[k]) * units_per_one[k];
      if constexpr (Run::kPacked) weight[k] *= codes.scale();
      largest = fmaxf(largest, Run::kPacked ? fabsf(weight[k]) : weight[k]);
    }
    largest *= coef_max;
    codes.ForEachRun([&](const Run& run) {
      // Where every product would round to 0, the result is the same without them.
      if (!real || largest < 0.5f) return;
      const auto add = [&](auto round) {
        run.ForEach([&](uint32_t atom, float c) {
#pragma unroll
          for (int k = 0; k < kLanes; ++k) {
            AddShared(place[k] + atom * sizeof(Lanes<kLanes>), round(weight[k], c));
          }
        });
      };
      if (largest < kMagicMax) {
        add(RoundProduct);
      } else {
        add([](float a, float b) { return __float2int_rn(a * b); });
      }
    });
  }
}

// z[a, g] += round(units * p[t, g] * c) over the value codes of a block's tiles, in integers: first
// in shared memory [n_atoms, kLanes], then, once, in the item's z. A warp takes a tile.
template <int kLanes, int kRun>
__global__ void __launch_bounds__(kTileThreads, 1)
    ValueKernel(const __grid_constant__ SparsePlan plan, const __grid_constant__ CodePages values,
                int n_atoms, SparseArrays arrays) {
  extern __shared__ int32_t z[];
  __shared__ ItemSums<kLanes> sums;
  __shared__ WarpSums<kLanes> warps;
  const BlockWork work(plan, blockIdx.x);
  for (int i = threadIdx.x; i < n_atoms * kLanes; i += kTileThreads) z[i] = 0;
  WaitForPrevious();
  SetItemSums(plan, work, values, arrays, warps, sums);
  __syncthreads();

  const auto* scores =
      reinterpret_cast<const Lanes<kLanes>*>(arrays.scores) + plan.FirstToken(work.seq, work.item);
  for (int t = work.tile_begin + threadIdx.x / kWarp; t < work.tile_end;
       t += kTileThreads / kWarp) {
    const TilePages tile(plan, values, plan.KvHead(work.item), work.seq, t);
    AddTile<kLanes, CodeRun<kRun>>(values, tile, sums, scores + tile.first * plan.page_tokens, z);
  }
  __syncthreads();
  int32_t* item_z = arrays.z + static_cast<int64_t>(work.wave_item(plan)) * n_atoms * kLanes;
  for (int i = threadIdx.x; i < n_atoms * kLanes; i += kTileThreads) {
    if (z[i] != 0) atomicAdd(item_z + i, z[i]);
  }
}

}  // namespace lexico::kernels::cuda

// SparseAttention over codes of any profile, second half: sums of p * v^ over the tokens.
//
// Atoms as the paper's, z[a] = sum_t p[t] c in integers (sparse_attention_values.cuh). Residuals
// are summed in the rotated space,
//
//   rotated[i] = sum_t w[t] * level[t, i],   w = p * residual scale,
//
// as products on tensor cores of the planes' signs with w * factor in two F16 pieces
// (residual_bits.h): for 16 tokens, 4 query heads and a plane of 128 numbers 8 products, 64
// operations that make signs of bits and 4 loads of a half-word a lane. A warp adds up a tile in
// F32, in the order of its tokens, and then adds the result, rounded to a fixed unit, to integers
// in shared memory; so the sum over tiles has no order, as that of z has none. The last kernel
// rotates back, once a query head.
#pragma once

#include <cmath>

#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/sparse_attention_values.cuh"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {

// What all lanes of ValueFamilyKernel need of an item.
template <int kLanes>
struct FamilySums : ItemSums<kLanes> {
  float rotated_units_per_one[kLanes];
  float shrink;  // a power of two: residual scales times it are less than 1
};

// Of F16 bits of a magnitude, or FP8's: whether it is not a number, and what it is.
__device__ inline bool IsNan(const FamilyPages& values, uint32_t code) {
  return values.packed ? code >= 0x7c00u : code == kE4m3Nan;
}
__device__ inline float CoefficientBound(const FamilyPages& values, uint32_t code) {
  if (values.run == 0) return 0;
  return values.packed ? 8 * HalfToFloat(static_cast<uint16_t>(code)) : E4m3PairToFloat(code).x;
}

__device__ inline float UnitOf(float units_per_one, bool nan) {
  return nan ? NAN : units_per_one == 0 ? 0.0f : 1 / units_per_one;
}

// `sums` from the item's tiles; by all threads of a block, with a barrier.
template <int kLanes>
__device__ void SetFamilySums(const SparsePlan& plan, const BlockWork& work,
                              const FamilyPages& values, const SparseArrays& arrays,
                              WarpSums<kLanes>& warps, FamilySums<kLanes>& sums) {
  JoinTiles<kLanes, true>(
      plan, work, arrays, warps, [&](int g, const HeadSums& head, uint32_t largest) {
        const uint32_t coef_code = largest & 0xffffu;
        const float coef_max = CoefficientBound(values, coef_code);
        const float scale_max = HalfToFloat(static_cast<uint16_t>(largest >> 16));
        const float units = UnitsPerOne(head.sum * static_cast<float>(values.sparsity) * coef_max);
        const float rotated_units = UnitsPerOne(head.sum * scale_max * values.terms.largest);
        sums.max[g] = head.max;
        sums.units_per_one[g] = units;
        sums.rotated_units_per_one[g] = rotated_units;
        if (g == 0) {
          // Packed coefficients come without their scale, which is in the weight.
          sums.coef_max = values.packed ? 8.0f : coef_max;
          const bool scales = scale_max > 0 && scale_max < INFINITY;
          sums.shrink = scales ? ldexpf(0.5f, -ilogbf(scale_max)) : 1.0f;
        }
        if (work.tile_begin > 0) return;
        const int64_t place = static_cast<int64_t>(work.wave_item(plan)) * kLanes + g;
        arrays.heads[place] = head;
        arrays.units[place] = UnitOf(units, IsNan(values, coef_code));
        if (values.residual_bits == 0) return;
        arrays.rotated_units[place] = UnitOf(rotated_units, largest >> 16 >= 0x7c00u);
      });
}

// Four tokens' bits and their weights in the lane's head.
struct WeightedTokens {
  float weight[4];
  uint32_t words[base::kResidualBitsMax][2];  // of each plane: two tokens, and two
};

// The lane's half-word (byte of 64 numbers or fewer) of a plane.
template <int kTiles>
__device__ inline uint32_t LoadValueBits(const FamilyPages& values, const uint8_t* plane) {
  const int g = static_cast<int>(threadIdx.x % kWarp / 4);
  if constexpr (kTiles == 4) {
    return g < values.plane_bytes ? plane[g] : 0u;
  } else {  // blocks have an even number of bytes before their planes
    return reinterpret_cast<const uint16_t*>(plane)[g];
  }
}

// Tokens ValueToken(t, i) of 16, of which the warp's lanes have `planes` and `scale`: lane l of
// token l - lane_of_first. No weight from n_tokens on.
template <int kLanes, int kTiles>
__device__ WeightedTokens Weigh(const FamilyPages& values, const uint8_t* planes, float scale,
                                int lane_of_first, const Lanes<kLanes>* scores, int n_tokens,
                                float max) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int head = lane / 8;
  WeightedTokens tokens = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = ValueToken(lane % 4, i);
    const int from = lane_of_first + token;
    const auto* planes_there = reinterpret_cast<const uint8_t*>(
        __shfl_sync(kAllLanes, reinterpret_cast<unsigned long long>(planes), from));
#pragma unroll
    for (int p = 0; p < base::kResidualBitsMax; ++p) {
      if (p >= values.residual_bits) break;
      tokens.words[p][i / 2] |= LoadValueBits<kTiles>(values, planes_there + p * values.plane_bytes)
                                << (i % 2 * 16);
    }
    const float scale_there = __shfl_sync(kAllLanes, scale, from);
    const bool real = head < kLanes && token < n_tokens;
    const float score = real ? scores[token].v[head % kLanes] : max;
    tokens.weight[i] = real ? ExpOfNegative(score - max) * scale_there : 0.0f;
  }
  return tokens;
}

// out += 16 tokens: rows as ValueBit says, column n piece n % 2 of head n / 2. The planes come one
// after another to the front; their exclusive or is the last.
template <int kTiles>
__device__ void AddWeighted(const LevelTerms& terms, WeightedTokens tokens,
                            float (&out)[kTiles][4]) {
  const bool second = (threadIdx.x / 4 & 1) != 0;  // piece of the lane's column
  auto& words = tokens.words;
  const uint32_t product[2] = {words[0][0] ^ words[1][0] ^ words[2][0],
                               words[0][1] ^ words[1][1] ^ words[2][1]};
#pragma unroll 1
  for (int term = 0; term < terms.n_terms; ++term) {
    float piece[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 split = SplitInPieces(tokens.weight[i] * terms.factors[term]);
      piece[i] = second ? split.y : split.x;
    }
    const uint32_t b0 = PackPair<__half>(piece[0], piece[1]);
    const uint32_t b1 = PackPair<__half>(piece[2], piece[3]);
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      const uint32_t a[4] = {
          SignPair(words[0][0], ValueBit(m, 0)), SignPair(words[0][0], ValueBit(m, 1)),
          SignPair(words[0][1], ValueBit(m, 0)), SignPair(words[0][1], ValueBit(m, 1))};
      MultiplyAdd<__half>(out[m], a, b0, b1);
    }
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      words[0][w] = words[1][w];
      words[1][w] = words[2][w];
      words[2][w] = product[w];
    }
  }
}

// A pass's sums, rounded, to `rotated`.
template <int kLanes, int kTiles>
__device__ inline void AddTileSum(const float (&out)[kTiles][4], const FamilySums<kLanes>& sums,
                                  int padded_dim, int pass, int32_t* rotated) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int head = lane % 4;
  if (head >= kLanes) return;
  const float units = sums.rotated_units_per_one[head] / sums.shrink;
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = fmaf(out[m][2 * h + 1], kSecondPiece, out[m][2 * h]);
      const int number = ValueNumber(padded_dim, pass, lane / 4, ValueBit(m, h));
      atomicAdd(rotated + ValuePlace(padded_dim, number) * kLanes + head,
                __float2int_rn(sum * units));
    }
  }
}

// Adds one tile to `rotated` [PaddedDim, kLanes] in shared memory, at ValuePlace. kTiles: products
// of 16 numbers in a pass.
template <int kLanes, int kTiles>
__device__ void AddResidualTile(const FamilyPages& values, const TilePages& tile,
                                const FamilySums<kLanes>& sums, const Lanes<kLanes>* scores,
                                int32_t* rotated) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int n_tokens = tile.n_pages * values.page_tokens;
  const int padded_dim = PaddedDim(values.head_dim);
  const float max = sums.max[lane / 8 % kLanes];
  for (int pass = 0; pass * kPassDim < padded_dim; ++pass) {
    float out[kTiles][4] = {};
    TokenPlace at(lane, values.page_tokens);
    for (int first = 0; first < n_tokens; first += kWarp) {
      const uint8_t* block = tile.At(at.page);
      const uint8_t* planes = values.Planes(block, at.place) + pass * (kPassDim / 8);
      const float scale = HalfToFloat(values.ResidualScale(block, at.place)) * sums.shrink;
      at.Advance(kWarp, values.page_tokens);
#pragma unroll 1
      for (int half = 0; half < kWarp && first + half < n_tokens; half += kWarp / 2) {
        const WeightedTokens tokens = Weigh<kLanes, kTiles>(
            values, planes, scale, half, scores + first + half, n_tokens - first - half, max);
        AddWeighted<kTiles>(values.terms, tokens, out);
      }
    }
    AddTileSum<kLanes, kTiles>(out, sums, padded_dim, pass, rotated);
    __syncwarp();  // products want the lanes in step
  }
}

// z and rotated of a block's tiles, in integers: first in shared memory, then, once, in the item's.
// A warp takes a tile. Shared: z [n_atoms, kLanes], then rotated [PaddedDim, kLanes].
template <int kLanes>
__global__ void __launch_bounds__(kTileThreads, 1)
    ValueFamilyKernel(const __grid_constant__ SparsePlan plan,
                      const __grid_constant__ FamilyPages values, int n_atoms,
                      SparseArrays arrays) {
  extern __shared__ int32_t z[];
  __shared__ FamilySums<kLanes> sums;
  __shared__ WarpSums<kLanes> warps;
  const BlockWork work(plan, blockIdx.x);
  const int n_z = n_atoms * kLanes;
  const int n_rotated = values.residual_bits > 0 ? PaddedDim(values.head_dim) * kLanes : 0;
  int32_t* const rotated = z + n_z;
  for (int i = threadIdx.x; i < n_z + n_rotated; i += kTileThreads) z[i] = 0;
  WaitForPrevious();
  SetFamilySums(plan, work, values, arrays, warps, sums);
  __syncthreads();

  const auto* scores =
      reinterpret_cast<const Lanes<kLanes>*>(arrays.scores) + plan.FirstToken(work.seq, work.item);
  const auto for_each_tile = [&](const auto& add) {
    for (int t = work.tile_begin + threadIdx.x / kWarp; t < work.tile_end;
         t += kTileThreads / kWarp) {
      const TilePages tile(plan, values, plan.KvHead(work.item), work.seq, t);
      add(tile, scores + tile.first * plan.page_tokens);
    }
  };
  WithFamilyRun(values, [&](auto run) {
    for_each_tile([&](const TilePages& tile, const Lanes<kLanes>* tile_scores) {
      AddTile<kLanes, decltype(run)>(values, tile, sums, tile_scores, z);
    });
  });
  if (n_rotated > 0 && values.head_dim <= kResidualDimPadded) {
    for_each_tile([&](const TilePages& tile, const Lanes<kLanes>* tile_scores) {
      AddResidualTile<kLanes, 4>(values, tile, sums, tile_scores, rotated);
    });
  } else if (n_rotated > 0) {
    for_each_tile([&](const TilePages& tile, const Lanes<kLanes>* tile_scores) {
      AddResidualTile<kLanes, 8>(values, tile, sums, tile_scores, rotated);
    });
  }
  __syncthreads();
  const int64_t item = work.wave_item(plan);
  for (int i = threadIdx.x; i < n_z; i += kTileThreads) {
    if (z[i] != 0) atomicAdd(arrays.z + item * n_z + i, z[i]);
  }
  for (int i = threadIdx.x; i < n_rotated; i += kTileThreads) {
    if (rotated[i] != 0) atomicAdd(arrays.rotated + item * n_rotated + i, rotated[i]);
  }
}

// Adds the ranges of z D_v in order and the residual's sum, rotated back by the first warp, and
// writes the outputs. Grid: (items, lanes); a thread a component. One barrier between the two.
template <int kLanes>
__global__ void FinishFamilyKernel(const __grid_constant__ SparsePlan plan, int n_heads,
                                   int head_dim, int n_ranges, bool residual, SparseArrays arrays,
                                   float* out, float* max_score, float* sum_exp) {
  __shared__ float rest[base::kHeadDimMax];
  WaitForPrevious();
  const int64_t wave_item = blockIdx.x;
  const int g = blockIdx.y;
  const int seq = static_cast<int>(wave_item / plan.n_items);
  const int item = static_cast<int>(wave_item % plan.n_items);
  if (g >= plan.NumHeads(item, kLanes)) return;
  const int64_t head = (plan.first_seq + seq) * n_heads + plan.FirstHead(item, kLanes) + g;
  const bool empty = plan.UsedPages(seq) == 0;
  const HeadSums sums = empty ? HeadSums{-INFINITY, 0} : arrays.heads[wave_item * kLanes + g];
  if (threadIdx.x == 0) {
    max_score[head] = sums.max;
    sum_exp[head] = sums.sum;
  }
  if (threadIdx.x < kWarp) {
    float value[kRotationPartsMax] = {};
    if (residual && !empty) {
      const int padded_dim = PaddedDim(head_dim);
      const int32_t* rotated = arrays.rotated + wave_item * padded_dim * kLanes + g;
      const float unit = arrays.rotated_units[wave_item * kLanes + g];
#pragma unroll
      for (int part = 0; part < kRotationPartsMax; ++part) {
        const int i = NumberOfLane(part);
        if (i >= head_dim) continue;
        value[part] = static_cast<float>(rotated[ValuePlace(padded_dim, i) * kLanes]) * unit;
      }
      WarpRotateBack(value, head_dim);
    }
#pragma unroll
    for (int part = 0; part < kRotationPartsMax; ++part) rest[NumberOfLane(part)] = value[part];
  }
  const int i = threadIdx.x;
  const float* partial = arrays.partial + (wave_item * kLanes + g) * head_dim + i;
  const int64_t range_floats = static_cast<int64_t>(plan.n_wave_items()) * kLanes * head_dim;
  float value = 0;
  if (i < head_dim) {
#pragma unroll 16
    for (int range = 0; range < n_ranges; ++range) value += partial[range * range_floats];
  }
  __syncthreads();
  if (i < head_dim) out[head * head_dim + i] = isfinite(sums.sum) ? value + rest[i] : NAN;
}

}  // namespace lexico::kernels::cuda

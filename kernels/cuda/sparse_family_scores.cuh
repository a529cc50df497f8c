// SparseAttention over codes of any profile, first half: scores of all tokens.
//
//   score = c_j . table[atom_j]  +  residual scale * sum_p factor_p <R q, signs of plane p>
//
// Atoms are looked up as the paper's (sparse_attention_scores.cuh). Residuals are products on
// tensor cores of the planes' signs, as they lie in the page, with R q in two F16 pieces
// (residual_bits.h): for 32 tokens, 4 query heads and a plane of 128 numbers 16 products, 128
// operations that make signs of bits, 4 loads of a word a lane and 8 of R q.
#pragma once

#include "kernels/cuda/family_codes.cuh"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/sparse_attention_scores.cuh"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {

// Steps of 16 numbers in which a plane is multiplied.
LEXICO_HOST_DEVICE constexpr int KeySteps(int padded_dim) { return padded_dim / 16; }

// The right operand: R q of an item's heads, scaled, times the factor of each term.
inline size_t QueryPiecesBytes(const FamilyPages& keys) {
  return sizeof(uint2) * kWarp * KeySteps(PaddedDim(keys.head_dim)) * keys.terms.n_terms;
}

// R q of the item's heads, in shared memory.
template <int kLanes>
struct RotatedQueries {
  float q[kLanes][base::kHeadDimMax];  // divided by unit
  float unit[kLanes];                  // powers of two: of q then the largest is 1 to 2
};

// By warp g for head g.
template <int kLanes>
__device__ void RotateQuery(const float* q, float scale, bool real, int head_dim, int g,
                            RotatedQueries<kLanes>& to) {
  float x[kRotationPartsMax];
#pragma unroll
  for (int part = 0; part < kRotationPartsMax; ++part) {
    const int i = NumberOfLane(part);
    x[part] = real && i < head_dim ? scale * q[i] : 0.0f;
  }
  WarpRotate(x, head_dim);
  float largest = 0;
#pragma unroll
  for (int part = 0; part < kRotationPartsMax; ++part) {
    if (NumberOfLane(part) >= head_dim) x[part] = 0;
    largest = fmaxf(largest, fabsf(x[part]));
  }
  largest = WarpMax(largest);
  // Not of numbers that F32 holds only as denormal, nor of infinities.
  const int exponent = largest > 1e-30f && largest < 1e30f ? ilogbf(largest) : 0;
#pragma unroll
  for (int part = 0; part < kRotationPartsMax; ++part) {
    to.q[g][NumberOfLane(part)] = ldexpf(x[part], -exponent);
  }
  if (threadIdx.x % kWarp == 0) to.unit[g] = ldexpf(1, exponent);
}

// pieces [n_terms, KeySteps, kWarp]: what each lane needs of B in each step.
template <int kLanes>
__device__ void SetQueryPieces(const FamilyPages& keys, const RotatedQueries<kLanes>& queries,
                               uint2* pieces) {
  const int padded_dim = PaddedDim(keys.head_dim);
  const int n_steps = KeySteps(padded_dim);
  for (int i = threadIdx.x; i < keys.terms.n_terms * n_steps * kWarp; i += kTileThreads) {
    const int column = i % kWarp / 4;
    const int t = i % 4;
    const int step = i / kWarp % n_steps;
    const float factor = keys.terms.factors[i / (kWarp * n_steps)];
    const int head = column / 2;
    uint32_t words[2] = {};
    if (head < kLanes) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float of_half[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int number = KeyNumber(padded_dim, t, step, r, half);
          const float2 split = SplitInPieces(factor * queries.q[head][number]);
          of_half[half] = column % 2 == 0 ? split.x : split.y;
        }
        words[r] = PackPair<__half>(of_half[0], of_half[1]);
      }
    }
    pieces[i] = make_uint2(words[0], words[1]);
  }
}

// A lane's words of one plane (residual_bits.h, scores).
template <int kWords>
__device__ inline void LoadKeyWords(const FamilyPages& keys, const uint8_t* plane,
                                    uint32_t (&words)[kWords]) {
  const int t = static_cast<int>(threadIdx.x % 4);
  if (keys.head_dim <= kResidualDimPadded) {
    const uint32_t low = 2 * t < keys.plane_bytes ? plane[2 * t] : 0u;
    const uint32_t high = 2 * t + 1 < keys.plane_bytes ? plane[2 * t + 1] : 0u;
    words[0] = low | high << 16;
    return;
  }
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const uint8_t* from = plane + 4 * (t + 4 * w);
    if (keys.words) {
      words[w] = *reinterpret_cast<const uint32_t*>(from);
    } else {  // blocks have an even number of bytes before their planes
      const auto* halves = reinterpret_cast<const uint16_t*>(from);
      words[w] = halves[0] | static_cast<uint32_t>(halves[1]) << 16;
    }
  }
}

// Of lanes 4 g + t, [r] of lane t goes to [t] of lane r.
__device__ inline void TransposeInFours(float (&x)[4]) {
#pragma unroll
  for (int by = 1; by < 4; by *= 2) {
    const bool high = (threadIdx.x & by) != 0;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if ((r & by) != 0) continue;
      const float other = __shfl_xor_sync(kAllLanes, high ? x[r] : x[r ^ by], by);
      x[r] = high ? other : x[r];
      x[r ^ by] = high ? x[r ^ by] : other;
    }
  }
}

// For the lane's own token, <R q, levels> of each head, without the token's scale. `planes` are
// those of its token; all lanes together. kSteps: KeySteps.
template <int kLanes, int kSteps>
__device__ Lanes<kLanes> ResidualProducts(const FamilyPages& keys, const uint8_t* planes,
                                          const uint2* pieces,
                                          const RotatedQueries<kLanes>& queries) {
  constexpr int kWords = (kSteps + 7) / 8;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const uint8_t* from[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    from[r] = reinterpret_cast<const uint8_t*>(
        __shfl_sync(kAllLanes, reinterpret_cast<unsigned long long>(planes), lane / 4 * 4 + r));
  }
  float sum[2][4] = {};
  uint32_t product[4][kWords] = {};
  for (int term = 0; term < keys.terms.n_terms; ++term) {
    uint32_t bits[4][kWords];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if (term < keys.residual_bits) {
        LoadKeyWords(keys, from[r] + term * keys.plane_bytes, bits[r]);
#pragma unroll
        for (int w = 0; w < kWords; ++w) product[r][w] ^= bits[r][w];
      } else {
#pragma unroll
        for (int w = 0; w < kWords; ++w) bits[r][w] = product[r][w];
      }
    }
    const uint2* b = pieces + term * kSteps * kWarp + lane;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint2 piece = b[s * kWarp];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const uint32_t low = bits[2 * m][s / 8];
        const uint32_t high = bits[2 * m + 1][s / 8];
        const uint32_t a[4] = {SignPair(low, KeyBit(s, 0)), SignPair(high, KeyBit(s, 0)),
                               SignPair(low, KeyBit(s, 1)), SignPair(high, KeyBit(s, 1))};
        MultiplyAdd<__half>(sum[m], a, piece.x, piece.y);
      }
    }
  }
  // Of head t: tokens 4 g + r.
  float mine[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    mine[r] = fmaf(sum[r / 2][r % 2 * 2 + 1], kSecondPiece, sum[r / 2][r % 2 * 2]);
  }
  TransposeInFours(mine);
  Lanes<kLanes> products;
#pragma unroll
  for (int g = 0; g < kLanes; ++g) products.v[g] = mine[g] * queries.unit[g];
  return products;
}

template <int kLanes>
__device__ Lanes<kLanes> ResidualScore(const FamilyPages& keys, const uint8_t* block, int place,
                                       const uint2* pieces, const RotatedQueries<kLanes>& queries) {
  const uint8_t* planes = keys.Planes(block, place);
  const float scale = HalfToFloat(keys.ResidualScale(block, place));
  Lanes<kLanes> score;
  if (keys.head_dim <= kResidualDimPadded) {
    score = ResidualProducts<kLanes, 4>(keys, planes, pieces, queries);
  } else if (keys.head_dim == 128) {
    score = ResidualProducts<kLanes, 8>(keys, planes, pieces, queries);
  } else {
    score = ResidualProducts<kLanes, 16>(keys, planes, pieces, queries);
  }
#pragma unroll
  for (int g = 0; g < kLanes; ++g) score.v[g] *= scale;
  return score;
}

// score += the atoms' part. The next run is on its way while one is looked up.
template <typename Run, int kLanes>
__device__ void AddAtomScore(const FamilyPages& keys, const uint8_t* block, int place,
                             const Lanes<kLanes>* table, Lanes<kLanes>& score) {
  const uint16_t* atoms = keys.Atoms(block, place);
  const uint8_t* coefs = keys.Coefs(block, place);
  Lanes<kLanes> sum = {};
  Run ahead;
  ahead.Load(atoms, coefs);
  for (int left = keys.sparsity; left > 0; left -= Run::kCodes) {
    const Run run = ahead;
    atoms += Run::kCodes;
    coefs += Run::kCodes;
    if (left > Run::kCodes) ahead.Load(atoms, coefs);
    run.ForEach([&](uint32_t atom, float c) {
      const Lanes<kLanes> entry = table[atom];
#pragma unroll
      for (int g = 0; g < kLanes; ++g) sum.v[g] = fmaf(c, entry.v[g], sum.v[g]);
    });
  }
  const float scale = Run::kPacked ? HalfToFloat(keys.Scale(block, place)) : 1.0f;
#pragma unroll
  for (int g = 0; g < kLanes; ++g) score.v[g] = fmaf(scale, sum.v[g], score.v[g]);
}

// A hint only, for what the lane reads next.
__device__ inline void PrefetchToken(const FamilyPages& codes, const uint8_t* block, int place) {
  const auto prefetch = [](const void* address) {
    asm volatile("prefetch.global.L1 [%0];" ::"l"(address));
  };
  if (codes.run > 0) prefetch(codes.Atoms(block, place));
  if (codes.residual_bits > 0) prefetch(codes.Planes(block, place));
}

// One tile's scores.
template <int kLanes>
__device__ OnlineSums<kLanes> ScoreFamilyTile(const FamilyPages& keys, const TilePages& tile,
                                              const Lanes<kLanes>* table, const uint2* pieces,
                                              const RotatedQueries<kLanes>& queries,
                                              Lanes<kLanes>* scores) {
  const int n_tokens = tile.n_pages * keys.page_tokens;
  OnlineSums<kLanes> sums;
  TokenPlace at(threadIdx.x % kWarp, keys.page_tokens);
  const uint8_t* block = tile.At(at.page);
  for (int first = 0; first < n_tokens; first += kWarp) {
    const TokenPlace here = at;
    const uint8_t* const block_here = block;
    at.Advance(kWarp, keys.page_tokens);
    block = tile.At(at.page);
    PrefetchToken(keys, block, at.place);
    Lanes<kLanes> score = {};
    if (keys.residual_bits > 0) {
      score = ResidualScore(keys, block_here, here.place, pieces, queries);
    }
    WithFamilyRun(keys, [&](auto run) {
      AddAtomScore<decltype(run)>(keys, block_here, here.place, table, score);
    });
    if (here.token < n_tokens) {
      scores[here.token] = score;
#pragma unroll
      for (int g = 0; g < kLanes; ++g) sums.Add(g, {score.v[g], 1});
    }
    __syncwarp();  // products want the lanes in step
  }
  return sums;
}

// What bounds the sums over a tile's values: the largest of |coefficient| in the low half, as an
// FP8 code or, packed, of |scale| as F16 bits, and of |residual scale| in the high half. All lanes
// of a warp together; valid in all.
__device__ inline uint32_t LargestOfValues(const FamilyPages& values, const TilePages& tile) {
  uint32_t largest = 0;
  if (values.packed || values.residual_bits > 0) {
    TokenPlace at(threadIdx.x % kWarp, values.page_tokens);
    for (int first = 0; first < tile.n_pages * values.page_tokens; first += kWarp) {
      const uint8_t* block = tile.At(at.page);
      const uint32_t low = values.packed ? values.Scale(block, at.place) : 0u;
      const uint32_t high = values.residual_bits > 0 ? values.ResidualScale(block, at.place) : 0u;
      largest = __vmaxu2(largest, (low | high << 16) & 0x7fff7fffu);
      at.Advance(kWarp, values.page_tokens);
    }
  }
  largest = WarpLargest<true>(largest);
  if (values.run > 0 && !values.packed) largest |= CoefMax(values, tile);
  return largest;
}

// z and its rotated part of the item to 0, a block its share.
template <int kLanes>
__device__ void ZeroSums(const SparsePlan& plan, const BlockWork& work, int n_atoms_v,
                         int rotated_dim, const SparseArrays& arrays) {
  const int64_t item = work.wave_item(plan);
  const int first = work.share * kTileThreads + static_cast<int>(threadIdx.x);
  const int step = work.n_shares * kTileThreads;
  for (int i = first; i < n_atoms_v * kLanes; i += step) {
    arrays.z[item * n_atoms_v * kLanes + i] = 0;
  }
  for (int i = first; i < rotated_dim * kLanes; i += step) {
    arrays.rotated[item * rotated_dim * kLanes + i] = 0;
  }
}

// scores, and of each tile its HeadSums and LargestOfValues. A warp takes a tile, a lane every
// 32nd of its tokens. Shared: the queries' pieces, then the item's table [n_atoms_k, kLanes].
template <int kLanes>
__global__ void __launch_bounds__(kTileThreads, 1)
    ScoreFamilyKernel(const __grid_constant__ SparsePlan plan,
                      const __grid_constant__ FamilyPages keys,
                      const __grid_constant__ FamilyPages values, const float* q, float scale,
                      int n_heads, int n_atoms_k, int n_atoms_v, SparseArrays arrays) {
  extern __shared__ float4 shared[];
  __shared__ RotatedQueries<kLanes> queries;
  auto* pieces = reinterpret_cast<uint2*>(shared);
  auto* table = reinterpret_cast<Lanes<kLanes>*>(
      pieces + keys.terms.n_terms * KeySteps(PaddedDim(keys.head_dim)) * kWarp);
  const BlockWork work(plan, blockIdx.x);
  const int warp = threadIdx.x / kWarp;
  WaitForPrevious();
  if (keys.residual_bits > 0 && warp < kLanes) {
    const int64_t head = (plan.first_seq + work.seq) * n_heads + plan.FirstHead(work.item, kLanes);
    RotateQuery(q + (head + warp) * keys.head_dim, scale, warp < plan.NumHeads(work.item, kLanes),
                keys.head_dim, warp, queries);
  }
  const auto* from = reinterpret_cast<const Lanes<kLanes>*>(arrays.tables) +
                     static_cast<int64_t>(work.wave_item(plan)) * n_atoms_k;
#pragma unroll 4
  for (int a = threadIdx.x; a < n_atoms_k; a += kTileThreads) table[a] = from[a];
  ZeroSums<kLanes>(plan, work, n_atoms_v, values.residual_bits > 0 ? PaddedDim(values.head_dim) : 0,
                   arrays);
  __syncthreads();
  SetQueryPieces(keys, queries, pieces);
  __syncthreads();

  const int kv_head = plan.KvHead(work.item);
  auto* scores =
      reinterpret_cast<Lanes<kLanes>*>(arrays.scores) + plan.FirstToken(work.seq, work.item);
  for (int t = work.tile_begin + warp; t < work.tile_end; t += kTileThreads / kWarp) {
    const TilePages tile(plan, keys, kv_head, work.seq, t);
    const OnlineSums<kLanes> sums =
        ScoreFamilyTile(keys, tile, table, pieces, queries, scores + tile.first * plan.page_tokens);
    const uint32_t largest = LargestOfValues(values, TilePages(plan, values, kv_head, work.seq, t));
    const int64_t place = plan.FirstTile(work.seq, work.item) + t;
#pragma unroll
    for (int g = 0; g < kLanes; ++g) {
      const HeadSums head = sums.OfWarp(g);
      if (threadIdx.x % kWarp == 0) arrays.tiles[place * kLanes + g] = head;
    }
    if (threadIdx.x % kWarp == 0) arrays.largest[place] = largest;
  }
}

}  // namespace lexico::kernels::cuda

// The kernels of SparseAttention; sparse_attention.cu says what runs when, and why so.
#pragma once

#include <cmath>

#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/sparse_attention_plan.h"

namespace lexico::kernels::cuda {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;
inline constexpr int kTableAtoms = 32;     // of one block of TableKernel: a lane an atom
inline constexpr int kTableItems = 8;      // and a warp an item
inline constexpr int kTileThreads = 1024;  // of ScoreKernel and ValueKernel
inline constexpr int kMultiplyItems = 4;   // that share a row of D_v
inline constexpr uint32_t kE4m3Nan = 0x7f;

// A number of each head of an item.
template <int kLanes>
struct alignas(4 * kLanes) Lanes {
  float v[kLanes];
};

__device__ inline float WarpMax(float value) {
#pragma unroll
  for (int i = kWarp / 2; i > 0; i /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, i));
  }
  return value;
}
__device__ inline float WarpSum(float value) {
#pragma unroll
  for (int i = kWarp / 2; i > 0; i /= 2) value += __shfl_xor_sync(kAllLanes, value, i);
  return value;
}

// What a sum relative to `max` is relative to a larger one.
__device__ inline float Rescale(float max, float to_max) {
  return max == -INFINITY ? 0.0f : expf(max - to_max);
}

// What a block of ScoreKernel and ValueKernel does: tiles [tile_begin, tile_end) of one item.
struct BlockWork {
  int seq;
  int item;
  int tile_begin;
  int tile_end;

  __device__ BlockWork(const SparsePlan& plan, int block) {
    int low = 0;
    int high = plan.n_seqs;  // the last sequence that begins at `block` or before is in [low, high)
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (plan.block_begin[middle] <= block ? low : high) = middle;
    }
    seq = low;
    const int n_tiles = plan.n_tiles(seq);
    const int per_item = (n_tiles + plan.tiles_per_block - 1) / plan.tiles_per_block;
    const int place = block - plan.block_begin[seq];
    item = place / per_item;
    tile_begin = place % per_item * plan.tiles_per_block;
    tile_end = min(tile_begin + plan.tiles_per_block, n_tiles);
  }
  __device__ int wave_item(const SparsePlan& plan) const { return seq * plan.n_items + item; }
};

// tables = scale * q D_k^T, and z = 0. Grid: (ranges of kTableAtoms atoms, kTableItems items).
// Shared: the atoms and the queries, rows padded by 4 floats so that 8 lanes reading 16 bytes each
// meet every bank once.
template <int kLanes>
__global__ void __launch_bounds__(kTableItems* kWarp)
    TableKernel(const __grid_constant__ SparsePlan plan, const float* q, float scale, int n_heads,
                int head_dim, const float* rows, int row_stride, int n_atoms_k, int n_atoms_v,
                SparseArrays arrays) {
  extern __shared__ float4 shared[];
  const int padded = row_stride + 4;
  auto* atoms = reinterpret_cast<float*>(shared);
  float* queries = atoms + kTableAtoms * padded;  // [kTableItems, kLanes, row_stride]
  const int first_atom = blockIdx.x * kTableAtoms;
  const int first_item = blockIdx.y * kTableItems;
  const int n_items = min(kTableItems, plan.n_wave_items() - first_item);

  for (int i = threadIdx.x; i < kTableAtoms * row_stride; i += blockDim.x) {
    const int atom = first_atom + i / row_stride;
    atoms[i / row_stride * padded + i % row_stride] =
        atom < n_atoms_k ? rows[static_cast<int64_t>(first_atom) * row_stride + i] : 0.0f;
  }
  for (int i = threadIdx.x; i < n_items * kLanes * row_stride; i += blockDim.x) {
    const int column = i % row_stride;
    const int lane = i / row_stride % kLanes;
    const int wave_item = first_item + i / (row_stride * kLanes);
    const int item = wave_item % plan.n_items;
    const int64_t seq = plan.first_seq + wave_item / plan.n_items;
    const bool real = column < head_dim && lane < plan.NumHeads(item, kLanes);
    queries[i] =
        real ? q[(seq * n_heads + plan.FirstHead(item, kLanes) + lane) * head_dim + column] : 0.0f;
  }
  __syncthreads();

  const int slot = threadIdx.x / kWarp;
  const int place = threadIdx.x % kWarp;
  const int atom = first_atom + place;
  if (slot >= n_items) return;
  const float4* row = reinterpret_cast<const float4*>(atoms + place * padded);
  const float4* query = reinterpret_cast<const float4*>(queries + slot * kLanes * row_stride);
  Lanes<kLanes> dot = {};
  for (int i = 0; i < row_stride / 4; ++i) {
    const float4 d = row[i];
#pragma unroll
    for (int g = 0; g < kLanes; ++g) {
      const float4 x = query[g * (row_stride / 4) + i];
      dot.v[g] = fmaf(x.x, d.x, fmaf(x.y, d.y, fmaf(x.z, d.z, fmaf(x.w, d.w, dot.v[g]))));
    }
  }
#pragma unroll
  for (int g = 0; g < kLanes; ++g) dot.v[g] *= scale;
  const int64_t wave_item = first_item + slot;
  if (atom < n_atoms_k) {
    reinterpret_cast<Lanes<kLanes>*>(arrays.tables)[wave_item * n_atoms_k + atom] = dot;
  }
  if (atom < n_atoms_v) {
    reinterpret_cast<Lanes<kLanes>*>(arrays.z)[wave_item * n_atoms_v + atom] = {};
  }
}

// The largest code of |coefficient| among the bytes of one tile's value coefficients; kE4m3Nan if
// one is NaN. All lanes of a warp together; valid in all.
__device__ inline uint32_t CoefMax(const SparsePlan& plan, const CodePages& values, int kv_head,
                                   int64_t page_begin, int n_pages) {
  const int n_bytes = values.page_tokens * values.sparsity;
  uint32_t largest = 0;
  for (int p = 0; p < n_pages; ++p) {
    const uint8_t* coefs = values.Coefs(values.pages[page_begin + p], kv_head, 0);
    const bool aligned = reinterpret_cast<uintptr_t>(coefs) % 4 == 0 && n_bytes % 4 == 0;
    if (aligned) {
      for (int i = threadIdx.x % kWarp; i < n_bytes / 4; i += kWarp) {
        largest = __vmaxu4(largest, reinterpret_cast<const uint32_t*>(coefs)[i] & 0x7f7f7f7fu);
      }
    } else {
      for (int i = threadIdx.x % kWarp; i < n_bytes; i += kWarp) {
        largest = __vmaxu4(largest, coefs[i] & 0x7fu);
      }
    }
  }
  largest = __vmaxu4(largest, largest >> 16);
  largest = __vmaxu4(largest, largest >> 8) & 0xffu;
  return __reduce_max_sync(kAllLanes, largest);
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
  const int64_t wave_item = work.wave_item(plan);
  const auto* from = reinterpret_cast<const Lanes<kLanes>*>(arrays.tables) + wave_item * n_atoms;
  for (int a = threadIdx.x; a < n_atoms; a += kTileThreads) table[a] = from[a];
  __syncthreads();

  const int lane = threadIdx.x % kWarp;
  const int kv_head = plan.KvHead(work.item);
  const int64_t n_pages = plan.page_begin[work.seq + 1] - plan.page_begin[work.seq];
  auto* scores =
      reinterpret_cast<Lanes<kLanes>*>(arrays.scores) + plan.FirstToken(work.seq, work.item);
  for (int tile = work.tile_begin + threadIdx.x / kWarp; tile < work.tile_end;
       tile += kTileThreads / kWarp) {
    const int64_t first_page = static_cast<int64_t>(tile) * plan.tile_pages;
    const int tile_pages =
        static_cast<int>(min(static_cast<int64_t>(plan.tile_pages), n_pages - first_page));
    const int64_t page_begin = plan.page_begin[work.seq] + first_page;
    float max[kLanes];
    float sum[kLanes];
#pragma unroll
    for (int g = 0; g < kLanes; ++g) max[g] = -INFINITY, sum[g] = 0;
    for (int t = lane; t < tile_pages * plan.page_tokens; t += kWarp) {
      const uint8_t* page = keys.pages[page_begin + t / plan.page_tokens];
      const int place = t % plan.page_tokens;
      const uint16_t* atoms = keys.Atoms(page, kv_head, place);
      const uint8_t* coefs = keys.Coefs(page, kv_head, place);
      Lanes<kLanes> score = {};
#pragma unroll 2
      for (int j = 0; j < keys.sparsity; j += kRun) {
        const CodeRun<kRun> codes(atoms + j, coefs + j);
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          const Lanes<kLanes> entry = table[codes.atoms[i]];
#pragma unroll
          for (int g = 0; g < kLanes; ++g) {
            score.v[g] = fmaf(codes.coefs[i], entry.v[g], score.v[g]);
          }
        }
      }
      scores[first_page * plan.page_tokens + t] = score;
#pragma unroll
      for (int g = 0; g < kLanes; ++g) {
        const float larger = fmaxf(max[g], score.v[g]);
        sum[g] = sum[g] * Rescale(max[g], larger) + expf(score.v[g] - larger);
        max[g] = larger;
      }
    }
    const int64_t place = plan.FirstTile(work.seq, work.item) + tile;
    const uint32_t coef_max = CoefMax(plan, values, kv_head, page_begin, tile_pages);
    if (lane == 0) arrays.coef_max[place] = coef_max;
#pragma unroll
    for (int g = 0; g < kLanes; ++g) {
      const float tile_max = WarpMax(max[g]);
      const float tile_sum = WarpSum(sum[g] * Rescale(max[g], tile_max));
      if (lane == 0) arrays.tiles[place * kLanes + g] = {tile_max, tile_sum};
    }
  }
}

// The sums of an item's tiles, in an order that depends on nothing but their number. A warp's
// lanes together; valid in all.
__device__ inline HeadSums CombineTiles(const HeadSums* tiles, int n_tiles, int lanes) {
  const int lane = threadIdx.x % kWarp;
  float max = -INFINITY;
  for (int t = lane; t < n_tiles; t += kWarp) max = fmaxf(max, tiles[t * lanes].max);
  max = WarpMax(max);
  float sum = 0;
  for (int t = lane; t < n_tiles; t += kWarp) {
    sum += tiles[t * lanes].sum * Rescale(tiles[t * lanes].max, max);
  }
  return {max, WarpSum(sum)};
}

// How many units of z are 1: a power of two, so that no sum over the codes of an item reaches 2^31.
// |z| <= sum_t p[t] * sparsity * coef_max, below 2^30 here; rounding adds at most half a unit a
// token. 0 if there is nothing to add, or a number that is none: then the item's result is NaN
// (FinishKernel).
__device__ inline float UnitsPerOne(float sum_exp, int sparsity, uint32_t coef_max) {
  const float bound = sum_exp * static_cast<float>(sparsity) * E4m3PairToFloat(coef_max).x;
  if (!(bound > 0 && bound < INFINITY)) return 0;
  return exp2f(static_cast<float>(29 - ilogbf(bound)));
}

// What all lanes of ValueKernel need of an item.
template <int kLanes>
struct ItemSums {
  float max[kLanes];
  float units_per_one[kLanes];
  float coef_max;
};

template <int kLanes>
__device__ void SetItemSums(const SparsePlan& plan, const BlockWork& work, const CodePages& values,
                            const SparseArrays& arrays, ItemSums<kLanes>& sums) {
  const int g = threadIdx.x / kWarp;
  if (g >= kLanes) return;
  const int lane = threadIdx.x % kWarp;
  const int n_tiles = plan.n_tiles(work.seq);
  const int64_t first_tile = plan.FirstTile(work.seq, work.item);
  const HeadSums head = CombineTiles(arrays.tiles + first_tile * kLanes + g, n_tiles, kLanes);
  uint32_t coef_max = 0;
  for (int t = lane; t < n_tiles; t += kWarp) {
    coef_max = max(coef_max, arrays.coef_max[first_tile + t]);
  }
  coef_max = __reduce_max_sync(kAllLanes, coef_max);
  if (lane != 0) return;
  const float units_per_one = UnitsPerOne(head.sum, values.sparsity, coef_max);
  sums.max[g] = head.max;
  sums.units_per_one[g] = units_per_one;
  if (g == 0) sums.coef_max = E4m3PairToFloat(coef_max).x;
  if (work.tile_begin > 0) return;
  const int64_t place = static_cast<int64_t>(work.wave_item(plan)) * kLanes + g;
  const bool nan = coef_max == kE4m3Nan;
  arrays.heads[place] = {head.max, head.sum};
  arrays.units[place] = nan ? NAN : units_per_one == 0 ? 0.0f : 1 / units_per_one;
}

// z[a, g] += round(units * p[t, g] * c) over the value codes of a block's tiles, in integers: first
// in shared memory [n_atoms, kLanes], then, once, in the item's z. A warp takes a tile, a lane
// every 32nd run of codes. Lanes take their heads in turn, beginning with another each, so that
// they meet all banks.
template <int kLanes, int kRun>
__global__ void __launch_bounds__(kTileThreads, 1)
    ValueKernel(const __grid_constant__ SparsePlan plan, const __grid_constant__ CodePages values,
                int n_atoms, SparseArrays arrays) {
  extern __shared__ int32_t z[];
  __shared__ ItemSums<kLanes> sums;
  const BlockWork work(plan, blockIdx.x);
  for (int i = threadIdx.x; i < n_atoms * kLanes; i += kTileThreads) z[i] = 0;
  SetItemSums(plan, work, values, arrays, sums);
  __syncthreads();

  const int lane = threadIdx.x % kWarp;
  const int kv_head = plan.KvHead(work.item);
  const int runs = values.sparsity / kRun;
  const int64_t n_pages = plan.page_begin[work.seq + 1] - plan.page_begin[work.seq];
  const auto* scores =
      reinterpret_cast<const Lanes<kLanes>*>(arrays.scores) + plan.FirstToken(work.seq, work.item);
  for (int tile = work.tile_begin + threadIdx.x / kWarp; tile < work.tile_end;
       tile += kTileThreads / kWarp) {
    const int64_t first_page = static_cast<int64_t>(tile) * plan.tile_pages;
    const int n_tokens =
        plan.page_tokens *
        static_cast<int>(min(static_cast<int64_t>(plan.tile_pages), n_pages - first_page));
    for (int u = lane; u < n_tokens * runs; u += kWarp) {
      const int t = u / runs;
      const Lanes<kLanes> score = scores[first_page * plan.page_tokens + t];
      float weight[kLanes];
      float largest = 0;
#pragma unroll
      for (int k = 0; k < kLanes; ++k) {
        const int g = (lane + k) % kLanes;
        weight[k] = 0;
#pragma unroll
        for (int h = 0; h < kLanes; ++h) {
          if (h == g) weight[k] = score.v[h];
        }
        weight[k] = expf(weight[k] - sums.max[g]) * sums.units_per_one[g];
        largest = fmaxf(largest, weight[k]);
      }
      // Every product would round to 0: the result is the same without them.
      if (largest * sums.coef_max < 0.5f) continue;
      const uint8_t* page =
          values.pages[plan.page_begin[work.seq] + first_page + t / plan.page_tokens];
      const int place = t % plan.page_tokens;
      const int first_code = u % runs * kRun;
      const CodeRun<kRun> codes(values.Atoms(page, kv_head, place) + first_code,
                                values.Coefs(page, kv_head, place) + first_code);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        int32_t* to = z + codes.atoms[i] * kLanes;
#pragma unroll
        for (int k = 0; k < kLanes; ++k) {
          atomicAdd(to + (lane + k) % kLanes, __float2int_rn(weight[k] * codes.coefs[i]));
        }
      }
    }
  }
  __syncthreads();
  int32_t* item_z = arrays.z + static_cast<int64_t>(work.wave_item(plan)) * n_atoms * kLanes;
  for (int i = threadIdx.x; i < n_atoms * kLanes; i += kTileThreads) {
    if (z[i] != 0) atomicAdd(item_z + i, z[i]);
  }
}

// partial[range] = z D_v over kRangeAtoms atoms, for kMultiplyItems items that share the rows. A
// thread owns a component. Grid: (ranges, items).
template <int kLanes>
__global__ void MultiplyKernel(const __grid_constant__ SparsePlan plan, const float* rows,
                               int row_stride, int n_atoms, int head_dim, SparseArrays arrays) {
  __shared__ Lanes<kLanes> z[kMultiplyItems][kRangeAtoms];
  const int first_atom = blockIdx.x * kRangeAtoms;
  const int range_atoms = min(kRangeAtoms, n_atoms - first_atom);
  const int first_item = blockIdx.y * kMultiplyItems;
  const int n_items = min(kMultiplyItems, plan.n_wave_items() - first_item);
  for (int i = threadIdx.x; i < kMultiplyItems * kRangeAtoms * kLanes; i += blockDim.x) {
    const int g = i % kLanes;
    const int atom = i / kLanes % kRangeAtoms;
    const int item = i / (kLanes * kRangeAtoms);
    const int64_t wave_item = first_item + item;
    float value = 0;
    if (item < n_items && atom < range_atoms && plan.n_tokens(wave_item / plan.n_items) > 0) {
      value = arrays.units[wave_item * kLanes + g] *
              static_cast<float>(arrays.z[(wave_item * n_atoms + first_atom + atom) * kLanes + g]);
    }
    z[item][atom].v[g] = value;
  }
  __syncthreads();

  const int component = threadIdx.x;
  if (component >= head_dim) return;
  const float* column = rows + static_cast<int64_t>(first_atom) * row_stride + component;
  Lanes<kLanes> out[kMultiplyItems] = {};
#pragma unroll 8
  for (int a = 0; a < range_atoms; ++a) {
    const float d = column[static_cast<int64_t>(a) * row_stride];
#pragma unroll
    for (int i = 0; i < kMultiplyItems; ++i) {
      const Lanes<kLanes> weight = z[i][a];
#pragma unroll
      for (int g = 0; g < kLanes; ++g) out[i].v[g] = fmaf(weight.v[g], d, out[i].v[g]);
    }
  }
#pragma unroll
  for (int i = 0; i < kMultiplyItems; ++i) {
    if (i >= n_items) break;
    const int64_t place = static_cast<int64_t>(blockIdx.x) * plan.n_wave_items() + first_item + i;
#pragma unroll
    for (int g = 0; g < kLanes; ++g) {
      arrays.partial[(place * kLanes + g) * head_dim + component] = out[i].v[g];
    }
  }
}

// Adds the ranges in order and writes the outputs. A block an item.
template <int kLanes>
__global__ void FinishKernel(const __grid_constant__ SparsePlan plan, int n_heads, int head_dim,
                             int n_ranges, SparseArrays arrays, float* out, float* max_score,
                             float* sum_exp) {
  const int64_t wave_item = blockIdx.x;
  const int seq = static_cast<int>(wave_item / plan.n_items);
  const int item = static_cast<int>(wave_item % plan.n_items);
  const int64_t first_head = (plan.first_seq + seq) * n_heads + plan.FirstHead(item, kLanes);
  const int item_heads = plan.NumHeads(item, kLanes);
  const bool empty = plan.n_tokens(seq) == 0;
  for (int g = threadIdx.x; g < item_heads; g += blockDim.x) {
    const HeadSums head = empty ? HeadSums{-INFINITY, 0} : arrays.heads[wave_item * kLanes + g];
    max_score[first_head + g] = head.max;
    sum_exp[first_head + g] = head.sum;
  }
  for (int i = threadIdx.x; i < item_heads * head_dim; i += blockDim.x) {
    const int g = i / head_dim;
    float value = 0;
    for (int range = 0; range < n_ranges; ++range) {
      value +=
          arrays.partial[((static_cast<int64_t>(range) * plan.n_wave_items() + wave_item) * kLanes +
                          g) *
                             head_dim +
                         i % head_dim];
    }
    const bool number = empty || isfinite(arrays.heads[wave_item * kLanes + g].sum);
    out[first_head * head_dim + i] = number ? value : NAN;
  }
}

}  // namespace lexico::kernels::cuda

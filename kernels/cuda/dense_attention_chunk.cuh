// DenseAttention: the partial softmax of every chunk (dense_attention_plan.h).
//
// One block of 8 warps a (chunk, KV head, up to 16 of its query heads). A warp has 4 query heads
// (1 where the group is 1) and takes every n-th tile of the chunk; warps of other heads take the
// same tiles at the same time, and find them in L1. In a warp a row of keys or values lies in
// kRowLanes lanes, 8 components each, and so do the queries and the weighted sums of values, in
// registers, in F32:
//
//   scores    products of a lane's components for (heads x rows) of the tile, then summed over the
//             lanes of a row so that each lane ends with the score of one (head, row): in log2
//             steps half of the values go to the partner (ScatterSum). 15 shuffles for 16 values.
//   softmax   online, of each head; a maximum that rises rescales the sums, which is rare
//   values    each weight is sent from its lane to all lanes of the row
//
// The next two tiles of a warp are on their way to shared memory while one is used. Rows past the
// end are zeros there and have score -infinity: they add exactly nothing.
//
// Shared memory: tiles of all warps, 96 KiB (2 blocks a multiprocessor); at the end the sums of all
// warps and row groups (32 KiB) in their place, then added with their weights in a fixed order.
// Barriers: after the last tile, after the sums are written, after their weights are.
// Deterministic.
//
// Measured (28 Nov 2026, H100 80GB HBM3, lexico-bench-kernels --device cuda --op dense_attention,
// 32 heads over 8 of 128, BF16): 1 x 131,072 tokens 196 us, 2.74 TB/s; 8 x 32,768 389 us; 16 x
// 131,072 2,845 us, 3.02 TB/s. Dropped: one tile ahead in registers, which spilled (242 and 535
// us).
#pragma once

#include <algorithm>

#include "kernels/cuda/dense_attention_plan.h"
#include "kernels/cuda/dense_attention_warp.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/warp.cuh"

namespace lexico::kernels::cuda {

inline constexpr int kDenseWarps = 8;
inline constexpr int kBlockHeads = 16;  // query heads of a block, at most

// What every chunk reads. Byte offsets and strides.
struct DenseInputs {
  const float* q;  // [*, n_heads, head_dim], all sequences
  const DenseRows* rows;
  int rows_max;
  const uint8_t* const* pages;
  const int32_t* n_pages;  // of those that the plan says; null: all
  int64_t page_k;          // from a page's pointer to the keys of head 0, likewise values
  int64_t page_v;
  int64_t page_head_bytes;
  int n_kv_heads;
  int group;
  int head_dim;
  float scale;
};

// Outputs or parts: rows are sequences of the batch, or slots.
struct DenseOutputs {
  float* out;
  float* max_score;
  float* sum_exp;
};

__device__ inline int RowTokens(const DenseInputs& in, int64_t seq) {
  if (in.rows == nullptr) return 0;
  return static_cast<int>(min(in.rows[seq].n_tokens, static_cast<int64_t>(in.rows_max)));
}

// Tiles of the pages that sequence `seq` of the plan has.
__device__ inline int64_t UsedPageTiles(const DensePlan& plan, const DenseInputs& in, int seq) {
  const int64_t most = plan.PageTiles(seq);
  if (in.n_pages == nullptr) return most;
  return min(most, static_cast<int64_t>(in.n_pages[plan.first_seq + seq]) * plan.page_tiles);
}

// Finds the sequence of a slot: the last that begins at it or before.
__device__ inline int SequenceOf(const DensePlan& plan, int slot) {
  int low = 0;
  int high = plan.n_seqs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (plan.slot_begin[middle] <= slot ? low : high) = middle;
  }
  return low;
}

// The tiles [first, end) of what they lie in.
struct Chunk {
  ChunkTilesSource source = {};
  int64_t first = 0;
  int64_t end = 0;
  bool exists = true;  // not a slot reserved for longer rows or more pages
};

// The chunk of a slot of sequence `seq` of the plan.
__device__ inline Chunk ChunkOf(const DensePlan& plan, const DenseInputs& in, int seq, int slot,
                                int kv_head, int element_bytes) {
  Chunk chunk;
  ChunkTilesSource& source = chunk.source;
  const int tile_tokens = plan.tile_tokens;
  const int64_t row_bytes = static_cast<int64_t>(element_bytes) * in.head_dim;
  int64_t n_tiles = UsedPageTiles(plan, in, seq);
  const int page_chunks = static_cast<int>(ChunksOf(n_tiles, tile_tokens));
  int64_t index = slot - plan.slot_begin[seq];
  if (index < page_chunks) {
    source.pages = in.pages + plan.page_begin[seq];
    source.page_k = in.page_k + kv_head * in.page_head_bytes;
    source.page_v = in.page_v + kv_head * in.page_head_bytes;
    source.stride = row_bytes;
    source.page_tokens = plan.page_tokens;
    source.page_tiles = plan.page_tiles;
  } else {
    index -= page_chunks;
    source.page_tokens = RowTokens(in, plan.first_seq + seq);
    n_tiles = (source.page_tokens + tile_tokens - 1) / tile_tokens;
    chunk.exists = index < ChunksOf(n_tiles, tile_tokens);
    source.page_tiles = max(static_cast<int>(n_tiles), 1);
    source.stride = row_bytes * in.n_kv_heads;
    if (n_tiles > 0) {
      const DenseRows& rows = in.rows[plan.first_seq + seq];
      source.k = static_cast<const uint8_t*>(rows.k) + kv_head * row_bytes;
      source.v = static_cast<const uint8_t*>(rows.v) + kv_head * row_bytes;
    }
  }
  const int64_t chunk_tiles = ChunkTiles(n_tiles, tile_tokens);
  chunk.first = index * chunk_tiles;
  chunk.end = min(chunk.first + chunk_tiles, n_tiles);
  return chunk;
}

// What the warps of a block leave for their sum: a part is a row group of a warp, for one of its
// query heads.
template <typename Warp>
struct WarpParts {
  static constexpr int kGroups = Warp::kGroups;
  static constexpr int kRowLanes = Warp::kLanes;
  static constexpr int kHeads = Warp::kQueries;
  static constexpr int kOfHead = kDenseWarps * kGroups;  // parts of one head, at most

  float4 sums[kDenseWarps * kHeads * kWarp * kLaneDims / 4];  // [part, kRowLanes, kLaneDims]
  float maxima[kDenseWarps * kHeads * kGroups];
  float totals[kDenseWarps * kHeads * kGroups];
  float weights[kBlockHeads * kOfHead];

  __device__ void Put(const Warp& of) {
    const float total = of.RowGroupSum();
    const int warp = threadIdx.x / kWarp;
#pragma unroll
    for (int g = 0; g < kHeads; ++g) {
      const int part = (warp * kHeads + g) * kGroups + of.lane() / kRowLanes;
      const float(&x)[kLaneDims] = of.out[g];
      float4* row = sums + (part * kRowLanes + of.row_lane()) * kLaneDims / 4;
      row[0] = make_float4(x[0], x[1], x[2], x[3]);
      row[1] = make_float4(x[4], x[5], x[6], x[7]);
      if (of.row_lane() == LaneOf(Warp::kValues, kRowLanes, g * Warp::kLoads)) {
        maxima[part] = of.max;
        totals[part] = total;
      }
    }
  }

  // Part i of head h, of the n_slots * kGroups that it has.
  __device__ static int PartOf(int h, int i, int head_tiles) {
    const int warp = i / kGroups * head_tiles + h / kHeads;
    return (warp * kHeads + h % kHeads) * kGroups + i % kGroups;
  }

  // All threads of the block, between barriers. The outputs of heads row, row + 1, ...
  __device__ void Combine(int n_heads, int head_tiles, int n_parts, int head_dim, int64_t row,
                          const DenseOutputs& to) {
    if (threadIdx.x < n_heads) {
      const int h = threadIdx.x;
      float max = -INFINITY;
      for (int i = 0; i < n_parts; ++i) max = fmaxf(max, maxima[PartOf(h, i, head_tiles)]);
      float sum = 0;
      for (int i = 0; i < n_parts; ++i) {
        const int part = PartOf(h, i, head_tiles);
        const float weight = PartWeight(maxima[part], max);
        weights[h * kOfHead + i] = weight;
        sum = fmaf(weight, totals[part], sum);
      }
      to.max_score[row + h] = max;
      to.sum_exp[row + h] = sum;
    }
    __syncthreads();
    const auto* of_part = reinterpret_cast<const float*>(sums);
    for (int i = threadIdx.x; i < n_heads * head_dim; i += kDenseWarps * kWarp) {
      const int h = i / head_dim;
      const int dim = i % head_dim;
      float sum = 0;
      for (int p = 0; p < n_parts; ++p) {
        const float x = of_part[PartOf(h, p, head_tiles) * kRowLanes * kLaneDims + dim];
        sum = fmaf(weights[h * kOfHead + p], x, sum);
      }
      to.out[(row + h) * head_dim + dim] = sum;
    }
  }
};

// Tiles on their way, then the parts of warps.
template <typename Warp>
constexpr size_t ChunkSharedBytes() {
  return std::max(sizeof(WarpParts<Warp>), size_t{kDenseWarps * kTileStages * kTileSharedBytes});
}

template <typename Element, int kRowLanes, int kHeads>
__global__ void __launch_bounds__(kDenseWarps* kWarp, 2)
    ChunkKernel(const __grid_constant__ DensePlan plan, const __grid_constant__ DenseInputs in,
                const __grid_constant__ DenseOutputs to) {
  using Warp = WarpAttention<Element, kRowLanes, kHeads>;
  WaitForPrevious();
  extern __shared__ __align__(128) uint8_t dense_shared[];
  const int seq = SequenceOf(plan, blockIdx.x);
  const int64_t batch_seq = plan.first_seq + seq;
  const int kv_head = blockIdx.y;
  const int first_head = blockIdx.z * kBlockHeads;
  const int n_heads = min(in.group - first_head, kBlockHeads);
  const int head_tiles = (n_heads + kHeads - 1) / kHeads;
  const int n_slots = kDenseWarps / head_tiles;  // warps of one tile of heads
  const int warp = threadIdx.x / kWarp;
  const int head_tile = warp % head_tiles;

  const Chunk chunk = ChunkOf(plan, in, seq, blockIdx.x, kv_head, sizeof(Element));
  // A direct plan has one slot a sequence, whose outputs are written even if it has no tokens.
  if (!chunk.exists && !plan.direct) return;
  const int64_t head = static_cast<int64_t>(kv_head) * in.group + first_head;
  const int64_t all_heads = static_cast<int64_t>(in.n_kv_heads) * in.group;
  Warp attention;
  attention.LoadQueries(in.q + (batch_seq * all_heads + head + head_tile * kHeads) * in.head_dim,
                        n_heads - head_tile * kHeads, in.head_dim);
  if (warp < n_slots * head_tiles) {
    attention.Run(chunk.source, chunk.first + warp / head_tiles, chunk.end, n_slots, in.head_dim,
                  in.scale, dense_shared + warp * kTileStages * kTileSharedBytes);
  }
  __syncthreads();
  auto& parts = *reinterpret_cast<WarpParts<Warp>*>(dense_shared);
  parts.Put(attention);
  __syncthreads();
  const int64_t row = (plan.direct ? batch_seq : blockIdx.x) * all_heads + head;
  parts.Combine(n_heads, head_tiles, n_slots * Warp::kGroups, in.head_dim, row, to);
}

template <typename Element, int kRowLanes, int kHeads>
void LaunchChunksFor(const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                     const DenseOutputs& to) {
  using Warp = WarpAttention<Element, kRowLanes, kHeads>;
  Launch(
      gpu, ChunkKernel<Element, kRowLanes, kHeads>,
      {"DenseAttention Chunk", dim3(plan.n_slots(), in.n_kv_heads, CeilDiv(in.group, kBlockHeads)),
       kDenseWarps * kWarp, ChunkSharedBytes<Warp>(), kOverlaps},
      plan, in, to);
}

template <typename Element, int kRowLanes>
void LaunchChunksFor(const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                     const DenseOutputs& to) {
  if (in.group == 1) return LaunchChunksFor<Element, kRowLanes, 1>(gpu, plan, in, to);
  LaunchChunksFor<Element, kRowLanes, 4>(gpu, plan, in, to);
}

// Enqueues the chunks of a wave for one type of cache.
template <typename Element>
void LaunchChunks(const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                  const DenseOutputs& to) {
  switch (RowLanesFor(in.head_dim)) {
    case 4:
      return LaunchChunksFor<Element, 4>(gpu, plan, in, to);
    case 8:
      return LaunchChunksFor<Element, 8>(gpu, plan, in, to);
    case 16:
      return LaunchChunksFor<Element, 16>(gpu, plan, in, to);
    default:
      return LaunchChunksFor<Element, 32>(gpu, plan, in, to);
  }
}

// One file each, so that they compile side by side.
void LaunchChunksBf16(const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                      const DenseOutputs& to);
void LaunchChunksF16(const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                     const DenseOutputs& to);
void LaunchChunksF32(const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                     const DenseOutputs& to);

}  // namespace lexico::kernels::cuda

// One warp of DenseAttention: the online softmax of up to 4 query heads over tiles of tokens; how a
// warp does it is told in dense_attention_chunk.cuh.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/dense_attention_plan.h"
#include "kernels/cuda/warp.cuh"

namespace lexico::kernels::cuda {

// e^(x - max), 0 for x = -infinity also where max is; 1 for the maximum itself.
__device__ inline float PartWeight(float x, float max) { return x == max ? 1.0f : __expf(x - max); }

// Shared memory of a warp: kTileStages tiles, of which kTileStages - 1 are on their way while one
// is used. A lane reads what it copied itself, so that no barrier is needed. A tile has kTilePieces
// pieces of 16 bytes a lane of keys, and of values; piece i of a lane lies at [i][lane].
inline constexpr int kTileStages = 3;
inline constexpr int kTilePieces = 4;
inline constexpr int kTileSharedBytes = 2 * kTilePieces * kWarp * 16;

// 8 consecutive components of a lane as they are stored, from piece `i` on.
template <typename Element>
__device__ inline void Unpack(const uint4* pieces, int i, float (&x)[kLaneDims]) {
  const uint4 words = pieces[i * kWarp];
  if constexpr (std::is_same_v<Element, float>) {
    const uint4 more = pieces[(i + 1) * kWarp];
    const uint32_t all[kLaneDims] = {words.x, words.y, words.z, words.w,
                                     more.x,  more.y,  more.z,  more.w};
#pragma unroll
    for (int d = 0; d < kLaneDims; ++d) x[d] = __uint_as_float(all[d]);
  } else {
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
        x[2 * d] = __uint_as_float(pairs[d] << 16);
        x[2 * d + 1] = __uint_as_float(pairs[d] & 0xffff0000u);
      } else {
        const float2 pair = __half22float2(reinterpret_cast<const __half2&>(pairs[d]));
        x[2 * d] = pair.x;
        x[2 * d + 1] = pair.y;
      }
    }
  }
}

// Sums v[i] over groups of kRowLanes lanes. A lane keeps the values [i, i + kOwn) of the place that
// PlaceOf(lane) says; kOwn = max(1, kValues / kRowLanes).
template <int kValues, int kRowLanes, int kOffset = 1, int kAll>
__device__ void ScatterSum(float (&v)[kAll]) {
  if constexpr (kOffset < kRowLanes) {
    if constexpr (kValues > 1) {
      const bool upper = threadIdx.x & kOffset;
#pragma unroll
      for (int i = 0; i < kValues / 2; ++i) {
        const float keep = upper ? v[i + kValues / 2] : v[i];
        const float send = upper ? v[i] : v[i + kValues / 2];
        v[i] = keep + __shfl_xor_sync(kAllLanes, send, kOffset);
      }
      ScatterSum<kValues / 2, kRowLanes, kOffset * 2>(v);
    } else {
      v[0] += __shfl_xor_sync(kAllLanes, v[0], kOffset);
      ScatterSum<1, kRowLanes, kOffset * 2>(v);
    }
  }
}

// The first value that `lane` of a row keeps, and the lane that keeps a value: each step halves.
__host__ __device__ constexpr int PlaceOf(int values, int row_lanes, int lane) {
  int place = 0;
  for (int offset = 1; offset < row_lanes && values > 1; offset *= 2) {
    values /= 2;
    if (lane & offset) place += values;
  }
  return place;
}
__host__ __device__ constexpr int LaneOf(int values, int row_lanes, int place) {
  int lane = 0;
  for (int offset = 1; offset < row_lanes && values > 1; offset *= 2) {
    values /= 2;
    if (place >= values) lane += offset, place -= values;
  }
  return lane;
}

// The tiles of one chunk and KV head; rows are one page of their own length.
struct ChunkTilesSource {
  const uint8_t* const* pages;  // null: rows
  const uint8_t* k;             // of rows
  const uint8_t* v;
  int64_t page_k;
  int64_t page_v;
  int64_t stride;  // bytes from row to row
  int page_tokens;
  int page_tiles;

  __device__ const uint8_t* Page(int page) const {
    return pages == nullptr ? nullptr : pages[page];
  }
  __device__ const uint8_t* Keys(const uint8_t* page) const {
    return pages == nullptr ? k : page + page_k;
  }
  __device__ const uint8_t* Values(const uint8_t* page) const {
    return pages == nullptr ? v : page + page_v;
  }
};

// Walks over tiles in equal steps.
struct TileCursor {
  int page;
  int tile;  // of the page

  __device__ TileCursor(const ChunkTilesSource& from, int64_t at)
      : page(static_cast<int>(at / from.page_tiles)),
        tile(static_cast<int>(at % from.page_tiles)) {}
  __device__ void Advance(int page_tiles, int step_pages, int step_tiles) {
    page += step_pages;
    tile += step_tiles;
    if (tile >= page_tiles) tile -= page_tiles, ++page;
  }
};

// The online softmax of one warp: kHeads query heads over tiles.
template <typename Element, int kRowLanes, int kHeads>
struct WarpAttention {
  static constexpr int kLanes = kRowLanes;
  static constexpr int kQueries = kHeads;
  static constexpr int kLoads = LoadsFor(sizeof(Element));
  static constexpr int kGroups = kWarp / kRowLanes;  // rows of one load
  static constexpr int kTile = TileTokens(kLoads, kRowLanes);
  static constexpr int kValues = kHeads * kLoads;
  static constexpr int kOwn = kValues > kRowLanes ? kValues / kRowLanes : 1;
  static constexpr int kPieces = kLaneDims * sizeof(Element) / 16;  // of one load
  static_assert(kHeads <= kRowLanes);
  static_assert(kLoads * kPieces == kTilePieces);

  float q[kHeads][kLaneDims];
  float out[kHeads][kLaneDims];
  float max = -INFINITY;  // of the lane's head, over its row group
  float sum = 0;          // of the lane's own weights

  __device__ int lane() const { return threadIdx.x % kWarp; }
  __device__ int row_lane() const { return lane() % kRowLanes; }

  __device__ void LoadQueries(const float* from, int n_heads, int head_dim) {
#pragma unroll
    for (int g = 0; g < kHeads; ++g)
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) {
        const int dim = row_lane() * kLaneDims + i;
        q[g][i] = g < n_heads && dim < head_dim ? from[g * head_dim + dim] : 0;
        out[g][i] = 0;
      }
  }

  // Begins to copy a tile's keys, or values: rows first .. first + kTile of at most `n`.
  __device__ void Copy(uint4* pieces, const uint8_t* rows, int64_t stride, int first, int n,
                       int head_dim) const {
    const int dim = row_lane() * kLaneDims;
    const uint32_t to = SharedAddress(pieces);
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
      const int row = first + l * kGroups + lane() / kRowLanes;
      const bool exists = row < n && dim < head_dim;
      const uint8_t* at =
          exists ? rows + row * stride + dim * static_cast<int>(sizeof(Element)) : rows;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        CopyAsync<true>(to + (l * kPieces + i) * kWarp * 16, exists ? at + i * 16 : rows, exists);
      }
    }
  }

  // s[g * kLoads + l], summed: the lane's own values first.
  __device__ void Scores(const uint4* keys, float (&s)[kValues]) const {
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
      float key[kLaneDims];
      Unpack<Element>(keys, l * kPieces, key);
#pragma unroll
      for (int g = 0; g < kHeads; ++g) {
        float product = q[g][0] * key[0];
#pragma unroll
        for (int i = 1; i < kLaneDims; ++i) product = fmaf(q[g][i], key[i], product);
        s[g * kLoads + l] = product;
      }
    }
    ScatterSum<kValues, kRowLanes>(s);
  }

  // The lane's own scores become weights. `rows`: how many of the tile's rows exist.
  __device__ void Softmax(float (&s)[kValues], float scale, int rows) {
    const int first_load = PlaceOf(kValues, kRowLanes, row_lane()) % kLoads;
    float tile_max = -INFINITY;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int row = (first_load + j) * kGroups + lane() / kRowLanes;
      s[j] = row < rows ? s[j] * scale : -INFINITY;
      tile_max = fmaxf(tile_max, s[j]);
    }
#pragma unroll
    for (int o = kHeads; o < kRowLanes; o *= 2) {
      tile_max = fmaxf(tile_max, __shfl_xor_sync(kAllLanes, tile_max, o));
    }
    if (__any_sync(kAllLanes, tile_max > max)) Rescale(fmaxf(max, tile_max));
    const float shift = max == -INFINITY ? 0 : max;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      s[j] = __expf(s[j] - shift);
      sum += s[j];
    }
  }

  __device__ void Rescale(float larger) {
    const float factor = PartWeight(max, larger);
    sum *= factor;
    max = larger;
#pragma unroll
    for (int g = 0; g < kHeads; ++g) {
      const float of_head = FromLane(factor, g * kLoads);
#pragma unroll
      for (int i = 0; i < kLaneDims; ++i) out[g][i] *= of_head;
    }
  }

  // A number that belongs to value `place`, from the lane of the row that has it.
  __device__ float FromLane(float x, int place) const {
    return __shfl_sync(kAllLanes, x, LaneOf(kValues, kRowLanes, place), kRowLanes);
  }

  __device__ void AddValues(const uint4* values, const float (&weights)[kValues]) {
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
      float value[kLaneDims];
      Unpack<Element>(values, l * kPieces, value);
#pragma unroll
      for (int g = 0; g < kHeads; ++g) {
        const float weight = FromLane(weights[l % kOwn], g * kLoads + l);
#pragma unroll
        for (int i = 0; i < kLaneDims; ++i) out[g][i] = fmaf(weight, value[i], out[g][i]);
      }
    }
  }

  // Tiles first, first + step, ... before `end` of the source. `ring`: the warp's shared memory.
  __device__ void Run(const ChunkTilesSource& from, int64_t first, int64_t end, int step,
                      int head_dim, float scale, uint8_t* ring) {
    if (first >= end) return;
    const int n = static_cast<int>((end - first + step - 1) / step);
    const int step_pages = step / from.page_tiles;
    const int step_tiles = step % from.page_tiles;
    TileCursor ahead(from, first);
    const uint8_t* page = from.Page(ahead.page);
    const auto stage_of = [&](int i) {
      return reinterpret_cast<uint4*>(ring + i * kTileSharedBytes) + lane();
    };
    const auto copy = [&](int i, int stage) {
      if (i < n) {
        uint4* to = stage_of(stage);
        const int row = ahead.tile * kTile;
        Copy(to, from.Keys(page), from.stride, row, from.page_tokens, head_dim);
        Copy(to + kTilePieces * kWarp, from.Values(page), from.stride, row, from.page_tokens,
             head_dim);
        ahead.Advance(from.page_tiles, step_pages, step_tiles);
        if (i + 1 < n) page = from.Page(ahead.page);
      }
      CommitCopies();
    };
    TileCursor at = ahead;
#pragma unroll
    for (int i = 0; i < kTileStages - 1; ++i) copy(i, i);
    int stage = 0;
#pragma unroll 1
    for (int i = 0; i < n; ++i) {
      copy(i + kTileStages - 1, stage == 0 ? kTileStages - 1 : stage - 1);
      WaitForCopies<kTileStages - 1>();
      const uint4* keys = stage_of(stage);
      float s[kValues];
      Scores(keys, s);
      Softmax(s, scale, from.page_tokens - at.tile * kTile);
      AddValues(keys + kTilePieces * kWarp, s);
      at.Advance(from.page_tiles, step_pages, step_tiles);
      stage = stage == kTileStages - 1 ? 0 : stage + 1;
    }
    WaitForCopies();
  }

  // The sum of the lane's head over its row group, from the lanes that have parts of it; lanes that
  // hold the same value count once.
  __device__ float RowGroupSum() const {
    float total = sum;
#pragma unroll
    for (int o = kHeads; o < kRowLanes; o *= 2) total += __shfl_xor_sync(kAllLanes, total, o);
    return total * (kRowLanes > kValues ? static_cast<float>(kValues) / kRowLanes : 1.0f);
  }
};

}  // namespace lexico::kernels::cuda

// How DenseAttention's tokens are cut, and where the results of the pieces lie.
//
//   tile    kLoads * rows of consecutive tokens of one page, or of the rows: what a warp takes
//   chunk   consecutive tiles of the pages, or of the rows, of one sequence: what a block takes
//   slot    the place of a chunk's partial softmax, of all query heads
//
// A chunk has kChunkTokens tokens, or twice as many as often as it takes to have no more than
// kChunksMax of them: it follows from the sequence alone, so that its results do. The lengths of
// rows, and with DenseAttentionArgs::n_pages the numbers of pages, are known on the device only;
// the host reserves slots for the most that it is told.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/api/dense_attention.h"
#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {

inline constexpr int kDenseWaveSequences = 128;  // the plan is a kernel's argument: at most 4 KiB
inline constexpr int kChunkTokens = 256;
inline constexpr int kChunksMax = 64;  // of the pages of a sequence, and of its rows

// How a warp reads rows of one type and head_dim: kRowLanes lanes a row of kLaneDims components
// each, kLoads rows a lane one after another.
inline constexpr int kLaneDims = 8;
__host__ __device__ constexpr int RowLanesFor(int head_dim) {
  return head_dim <= 32 ? 4 : head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
}
__host__ __device__ constexpr int LoadsFor(size_t element_bytes) {
  return element_bytes == 4 ? 2 : 4;
}
__host__ __device__ constexpr int TileTokens(int loads, int row_lanes) {
  return loads * 32 / row_lanes;
}

__host__ __device__ inline int64_t ChunkTiles(int64_t n_tiles, int tile_tokens) {
  int64_t tiles = kChunkTokens / tile_tokens;
  while (tiles * kChunksMax < n_tiles) tiles *= 2;
  return tiles;
}
__host__ __device__ inline int64_t ChunksOf(int64_t n_tiles, int tile_tokens) {
  const int64_t tiles = ChunkTiles(n_tiles, tile_tokens);
  return (n_tiles + tiles - 1) / tiles;
}

// A kernel's argument: sequences [first_seq, first_seq + n_seqs) of the batch.
struct DensePlan {
  int n_seqs;
  int64_t first_seq;
  int tile_tokens;
  int page_tokens;
  int page_tiles;  // of one page
  // One slot each: chunks write the op's outputs, and nothing is merged.
  bool direct;
  int64_t page_begin[kDenseWaveSequences + 1];
  int slot_begin[kDenseWaveSequences + 1];  // those of the pages, then those of the rows

  int n_slots() const { return slot_begin[n_seqs]; }
  __host__ __device__ int64_t PageTiles(int seq) const {
    return (page_begin[seq + 1] - page_begin[seq]) * page_tiles;
  }
};

// Partial softmaxes of the slots of a wave.
struct DenseParts {
  float* out;        // [n_slots, n_heads, head_dim]
  float* max_score;  // [n_slots, n_heads]
  float* sum_exp;    // [n_slots, n_heads]

  DenseParts(WorkspaceCutter& cutter, int64_t n_slots, int64_t n_heads, int64_t head_dim)
      : out(cutter.Take<float>(n_slots * n_heads * head_dim)),
        max_score(cutter.Take<float>(n_slots * n_heads)),
        sum_exp(cutter.Take<float>(n_slots * n_heads)) {}
};

class DensePlanner {
 public:
  // REQUIRES: args outlives the planner
  DensePlanner(const DenseAttentionArgs& args, size_t workspace_bytes);

  // The next wave, of as many sequences as fit into the workspace; false when there is none. One
  // sequence needs 4 * head_dim + 8 bytes a query head and slot, of which it has at most
  // 2 * kChunksMax.
  bool Next(DensePlan& plan);

 private:
  int64_t SlotsOf(const DensePlan& plan, int64_t seq) const;
  bool Fits(int64_t n_slots) const;

  const DenseAttentionArgs& args_;
  const size_t workspace_bytes_;
  int64_t next_seq_ = 0;
};

}  // namespace lexico::kernels::cuda

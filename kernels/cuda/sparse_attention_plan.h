// What SparseAttention computes in one wave of kernels, and where intermediate results lie.
//
// An item is (sequence, KV head, up to kLanes of its query heads). Its tokens are cut into tiles of
// whole pages, of kTileTokens or more as the sequence's length demands; a tile is scored by one
// warp, and everything that is summed over the tokens of more than one tile is summed either over
// tiles in a fixed order or in integers. So how tiles are spread over thread blocks changes no bit,
// and may follow from the whole batch.
//
// Tiles, blocks and places are planned for the pages that sequences may have
// (SparseAttentionArgs::n_pages); kernels spread the tiles that there are evenly over a sequence's
// blocks.
//
// A wave takes as many sequences as fit into the workspace; a sequence that does not fit alone is
// taken some items at a time, one at least: 4 * kLanes bytes a token (2 MiB at 131,072 tokens) and
// about 12 bytes a lane and atom.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/api/sparse_attention.h"
#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {

inline constexpr int kLanesMax = 4;
inline constexpr int kTileTokens = 32;      // a token a lane, where there are enough warps
inline constexpr int kTilesWanted = 512;    // of one item: longer sequences have larger tiles
inline constexpr int kTilePagesMax = 32;    // a lane of the warp holds the address of one
inline constexpr int kRangeAtoms = 128;     // of D_v multiplied by one block
inline constexpr int kWaveSequences = 128;  // the plan is a kernel's argument: at most 4 KiB

// The softmax of one query head so far. A part without tokens: max -inf, sum 0.
struct HeadSums {
  float max;
  float sum;
};

// A kernel's argument.
struct SparsePlan {
  int n_seqs;
  int n_items;         // of each sequence in this wave
  int first_item;      // of the sequence
  int items_per_head;  // of one KV head
  int group;           // query heads of a KV head
  int64_t first_seq;   // of the batch
  int page_tokens;
  int pages_per_block;  // about; a block takes whole tiles of one item
  // Of sequence q of the wave: pages from page_begin[q] to page_begin[q + 1], likewise tiles of one
  // item, and blocks of all items.
  int64_t page_begin[kWaveSequences + 1];
  int tile_begin[kWaveSequences + 1];
  int tile_pages[kWaveSequences];
  int block_begin[kWaveSequences + 1];
  // All of these are of what sequences may have. What they have, in device memory; null: all.
  const int32_t* n_pages;  // [of the batch]

  __host__ __device__ int n_blocks() const { return block_begin[n_seqs]; }
  __host__ __device__ int n_wave_items() const { return n_seqs * n_items; }
  __host__ __device__ int n_tiles(int seq) const { return tile_begin[seq + 1] - tile_begin[seq]; }
  __host__ __device__ int TilesPerBlock(int seq) const {
    return (pages_per_block + tile_pages[seq] - 1) / tile_pages[seq];
  }
  __host__ __device__ int64_t n_tokens(int seq) const {
    return (page_begin[seq + 1] - page_begin[seq]) * page_tokens;
  }
#ifdef __CUDACC__
  __device__ int64_t UsedPages(int seq) const {
    const int64_t most = page_begin[seq + 1] - page_begin[seq];
    return n_pages == nullptr ? most : min(most, static_cast<int64_t>(n_pages[first_seq + seq]));
  }
  __device__ int UsedTiles(int seq) const {
    return static_cast<int>((UsedPages(seq) + tile_pages[seq] - 1) / tile_pages[seq]);
  }
#endif
  // Places in arrays over (sequence, item, tile) and (sequence, item, token).
  __host__ __device__ int64_t FirstTile(int seq, int item) const {
    return static_cast<int64_t>(tile_begin[seq]) * n_items +
           static_cast<int64_t>(item) * n_tiles(seq);
  }
  __host__ __device__ int64_t FirstToken(int seq, int item) const {
    return (page_begin[seq] - page_begin[0]) * page_tokens * n_items + item * n_tokens(seq);
  }
  __host__ __device__ int KvHead(int item) const { return (first_item + item) / items_per_head; }
  // The item's first query head and how many of its lanes are heads.
  __host__ __device__ int FirstHead(int item, int lanes) const {
    return KvHead(item) * group + (first_item + item) % items_per_head * lanes;
  }
  __host__ __device__ int NumHeads(int item, int lanes) const {
    const int rest = group - (first_item + item) % items_per_head * lanes;
    return rest < lanes ? rest : lanes;
  }
};

// What the arrays of a wave depend on beside its items.
struct SparseSizes {
  int lanes;
  int n_atoms_k;  // 0: keys have no atoms
  int n_atoms_v;
  int head_dim;
  int rotated_dim;  // PaddedDim(head_dim) where values have a residual, else 0
};

// Arrays in the workspace; lanes innermost, so that what belongs to one code lies side by side.
struct SparseArrays {
  float* tables;      // [n_wave_items, n_atoms_k, lanes]   scale * <q, d_k>
  float* scores;      // [tokens of all items, lanes]
  HeadSums* tiles;    // [tiles of all items, lanes]
  uint32_t* largest;  // [tiles of all items]               largest code of |coef_v|, or what
                      //                                    sparse_family_scores.cuh says
  int32_t* z;         // [n_wave_items, n_atoms_v, lanes]   fixed point
  HeadSums* heads;    // [n_wave_items, lanes]
  float* units;       // [n_wave_items, lanes]              what 1 in z stands for
  float* partial;     // [n_ranges, n_wave_items, lanes, head_dim]
  // Of value codes with a residual; empty without.
  int32_t* rotated;      // [n_wave_items, PaddedDim(head_dim), lanes]  fixed point, in the rotated
                         // space; numbers at ValuePlace (residual_bits.h)
  float* rotated_units;  // [n_wave_items, lanes]            what 1 in it stands for

  SparseArrays(WorkspaceCutter& cutter, const SparseSizes& sizes, int64_t n_items, int64_t n_tiles,
               int64_t n_tokens);
};

// Heads of a KV head that are handled together: few where the group is small, or where 4 of the
// largest tables and `other_bytes` would not fit a block's shared memory.
int LanesFor(int group, int n_atoms, size_t shared_bytes_max, size_t other_bytes = 1024);

class SparsePlanner {
 public:
  // REQUIRES: args outlives the planner
  SparsePlanner(const SparseAttentionArgs& args, int lanes, int n_multiprocessors,
                size_t workspace_bytes);

  // The next wave; false when there is none.
  bool Next(SparsePlan& plan);
  SparseArrays Arrays(const SparsePlan& plan, char* workspace) const;

 private:
  int TilePages(int64_t seq) const;
  int64_t TilesOf(int64_t seq) const;
  size_t BytesFor(int64_t n_items, int64_t n_tiles, int64_t n_tokens) const;
  void TakeSequences(SparsePlan& plan);
  void SpreadPages(SparsePlan& plan) const;

  const SparseAttentionArgs& args_;
  const SparseSizes sizes_;
  const int n_multiprocessors_;
  const size_t workspace_bytes_;
  const int items_per_head_;
  const int items_per_seq_;
  int64_t next_seq_ = 0;
  int next_item_ = 0;
};

}  // namespace lexico::kernels::cuda

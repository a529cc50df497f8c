// What the kernels of SparseAttention share: the work of a block, the pages of a tile, a lane's way
// through its tokens.
#pragma once

#include "kernels/cuda/family_codes.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/sparse_attention_plan.h"
#include "kernels/cuda/warp.cuh"

namespace lexico::kernels::cuda {

inline constexpr int kTileThreads = 1024;  // of ScoreKernel and ValueKernel

// A number of each head of an item.
template <int kLanes>
struct alignas(4 * kLanes) Lanes {
  float v[kLanes];
};

// e^x of x <= 0, to 2^-22; what F32 holds only as a denormal number is 0.
__device__ inline float ExpOfNegative(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * 1.44269504f));
  return power;
}

// The maximum of no scores: finite, so that differences need no special case.
inline constexpr float kNoScore = -3.4e38f;

// The softmax sums of what a lane has seen.
template <int kLanes>
struct OnlineSums {
  float max[kLanes];
  float sum[kLanes];

  __device__ OnlineSums() {
#pragma unroll
    for (int g = 0; g < kLanes; ++g) max[g] = kNoScore, sum[g] = 0;
  }
  __device__ void Add(int g, const HeadSums& other) {
    const float larger = fmaxf(max[g], other.max);
    sum[g] =
        sum[g] * ExpOfNegative(max[g] - larger) + other.sum * ExpOfNegative(other.max - larger);
    max[g] = larger;
  }
  // All lanes of a warp together; valid in all.
  __device__ HeadSums OfWarp(int g) const {
    const float warp_max = WarpMax(max[g]);
    return {warp_max, WarpSum(sum[g] * __expf(max[g] - warp_max))};
  }
};

// Of the words of all lanes the largest, or of each half the largest.
template <bool kHalves>
__device__ inline uint32_t WarpLargest(uint32_t word) {
  if constexpr (!kHalves) return __reduce_max_sync(kAllLanes, word);
  return __reduce_max_sync(kAllLanes, word >> 16) << 16 |
         __reduce_max_sync(kAllLanes, word & 0xffffu);
}

// What a block of ScoreKernel and ValueKernel does: tiles [tile_begin, tile_end) of one item, of
// which an item's last blocks may have none.
struct BlockWork {
  int seq;
  int item;
  int share;     // which of the item's blocks
  int n_shares;  // that it has
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
    const int most = plan.TilesPerBlock(seq);
    n_shares = (plan.n_tiles(seq) + most - 1) / most;
    const int place = block - plan.block_begin[seq];
    const int n_tiles = plan.UsedTiles(seq);
    const int tiles = (n_tiles + n_shares - 1) / n_shares;
    item = place / n_shares;
    share = place % n_shares;
    tile_begin = share * tiles;
    tile_end = min(tile_begin + tiles, n_tiles);
  }
  __device__ int wave_item(const SparsePlan& plan) const { return seq * plan.n_items + item; }
};

// The pages of one tile: lane i of the warp holds the address of a KV head's block of page i.
struct TilePages {
  int64_t first;  // of the sequence
  int n_pages;    // 1 .. kWarp
  const uint8_t* block;

  __device__ TilePages(const SparsePlan& plan, const CodePages& codes, int kv_head, int seq,
                       int tile) {
    first = static_cast<int64_t>(tile) * plan.tile_pages[seq];
    const int64_t begin = plan.page_begin[seq];
    n_pages = static_cast<int>(
        min(static_cast<int64_t>(plan.tile_pages[seq]), plan.UsedPages(seq) - first));
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    block = codes.Block(codes.pages[begin + first + min(lane, n_pages - 1)], kv_head);
  }
  // To be called by all lanes together; a page past the last is the last.
  __device__ const uint8_t* At(int i) const {
    return reinterpret_cast<const uint8_t*>(
        __shfl_sync(kAllLanes, reinterpret_cast<unsigned long long>(block), min(i, n_pages - 1)));
  }
};

// Where a lane stands among the tokens of a tile, without a division a step.
struct TokenPlace {
  int token;
  int page;   // of the tile
  int place;  // in the page

  __device__ TokenPlace(int first, int page_tokens)
      : token(first), page(first / page_tokens), place(first % page_tokens) {}
  __device__ void Advance(int n, int page_tokens) {
    token += n;
    place += n;
    while (place >= page_tokens) {
      place -= page_tokens;
      ++page;
    }
  }
};

// A lane's way through the codes of a tile: those of every 32nd token from `first` on, run by run.
// The next run is on its way while one is used. All lanes of a warp together.
template <typename Run, typename Pages = CodePages>
class TokenCodes {
 public:
  __device__ TokenCodes(const Pages& codes, const TilePages& tile, int first)
      : codes_(codes), tile_(tile), place_(first, codes.page_tokens) {
    LoadFirst();
  }
  __device__ int token() const { return place_.token; }
  // Of the token at hand, packed codes only.
  __device__ float scale() const { return HalfToFloat(scale_); }

  // The runs of the token at hand, in order; then the next token is at hand.
  template <typename Body>
  __device__ void ForEachRun(const Body& body) {
    for (int left = codes_.sparsity - Run::kCodes; left > 0; left -= Run::kCodes) {
      const Run run = ahead_;
      atoms_ += Run::kCodes;
      coefs_ += Run::kCodes;
      ahead_.Load(atoms_, coefs_);
      body(run);
    }
    const Run run = ahead_;
    place_.Advance(kWarp, codes_.page_tokens);
    LoadFirst();
    body(run);
  }

 private:
  __device__ void LoadFirst() {
    const uint8_t* block = tile_.At(place_.page);
    atoms_ = codes_.Atoms(block, place_.place);
    coefs_ = codes_.Coefs(block, place_.place);
    ahead_.Load(atoms_, coefs_);
    if constexpr (Run::kPacked) scale_ = codes_.Scale(block, place_.place);
  }

  const Pages& codes_;
  const TilePages& tile_;
  TokenPlace place_;
  const uint16_t* atoms_;
  const uint8_t* coefs_;
  Run ahead_;
  uint16_t scale_;
};

}  // namespace lexico::kernels::cuda

// PrefillAttention on tensor cores: FlashAttention-2's loop (arXiv 2307.08691).
//
// One block a (query head, kRows consecutive queries), 4 warps; a warp has kRowTiles tiles of 16
// queries (2 up to head_dim 128, 1 above). Keys are taken in tiles of 64, counted from key 0, of
// which the next is on its way to shared memory while one is used:
//
//   scores    S = Q K^T by m16n8k16 products, queries and keys by ldmatrix
//   softmax   online, in registers, a row in the 4 lanes of a quad; weights in F32, e^x as 2^x
//   values    O += P V, P rounded to the type of V without leaving its registers
//
// Work map: blocks of one head lie side by side in the grid and read the same keys, which L2
// serves; late queries, which see most keys, come first. Shared memory: kRows rows of queries and
// two stages of 64 keys and 64 values, 96 KiB at head_dim 128 (2 blocks a multiprocessor), 160 KiB
// at 256 (1). One barrier a tile: the stage that is filled next was read before it. Components past
// head_dim and keys past the last position are zeros.
//
// A key that not all queries of the block see is masked by a score of -infinity, so that its weight
// is 0; but 0 times a value that is not finite is not 0. In tiles with such keys, values are looked
// at: those that are not finite are added to the queries that see them, and become 0 before the
// product (RemoveNonFinite).
//
// Deterministic. A query's result does not depend on its place: tiles of keys are the same for all,
// rows of a product do not mix, and a tile of which a query sees nothing adds exactly nothing.
//
// Measured (28 Nov 2026, H100 80GB HBM3, lexico-bench-kernels --device cuda --op prefill_attention,
// 2,048 queries, 32 heads over 8 of 128, BF16): 167, 284, 324 and 335 TFLOP/s over 2,048, 8,192,
// 32,768 and 131,072 keys. With the place of every chunk computed anew 149, 246, 280 and 287.
#pragma once

#include <cmath>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/prefill_attention_inputs.h"
#include "kernels/cuda/warp.cuh"

namespace lexico::kernels::cuda {

inline constexpr int kPrefillWarps = 4;
inline constexpr int kPrefillThreads = kPrefillWarps * kWarp;
inline constexpr int kPrefillKeys = 64;  // of one tile

// 8 numbers of either type as 16 bytes of Element.
template <typename Element>
__device__ inline uint4 LoadRounded(const float* from, float sign) {
  const float4 low = __ldg(reinterpret_cast<const float4*>(from));
  const float4 high = __ldg(reinterpret_cast<const float4*>(from) + 1);
  return make_uint4(PackPair<Element>(sign * low.x, sign * low.y),
                    PackPair<Element>(sign * low.z, sign * low.w),
                    PackPair<Element>(sign * high.x, sign * high.y),
                    PackPair<Element>(sign * high.z, sign * high.w));
}

// Element: of the products. Kv: of keys and values in memory, Element or float.
template <typename Element, typename Kv, int kHeadDim, int kRowTiles>
struct PrefillBlock {
  static constexpr int kRows = kPrefillWarps * kRowTiles * 16;
  static constexpr int kChunks = kHeadDim / 8;
  static constexpr int kStageBytes = kPrefillKeys * kHeadDim * 2;
  static constexpr size_t kSharedBytes = kRows * kHeadDim * 2 + 4 * kStageBytes;
  static constexpr int kColumns = kHeadDim / 8;       // 8 components each
  static constexpr int kKeyTiles = kPrefillKeys / 8;  // 8 keys each

  const PrefillInputs& in;
  uint8_t* const shared;  // queries, then keys of both stages, then values of both
  const int kv_head;
  const int first_query;  // of the call
  const int n_visible;    // keys of the last query of the block
  float factor;           // scores times this are exponents of 2

  float out[kRowTiles][kColumns][4] = {};
  // Of rows lane / 4 and lane / 4 + 8 of each tile.
  float max[kRowTiles][2];
  float sum[kRowTiles][2] = {};  // of the keys that this lane has

  __device__ int lane() const { return threadIdx.x % kWarp; }
  __device__ int warp_row() const { return static_cast<int>(threadIdx.x / kWarp) * kRowTiles * 16; }
  __device__ uint8_t* keys(int stage) const {
    return shared + kRows * kHeadDim * 2 + stage * kStageBytes;
  }
  __device__ uint8_t* values(int stage) const { return keys(2 + stage); }
  // The position of row `half` * 8 + lane / 4 of a tile.
  __device__ int Position(int tile, int half) const {
    return in.first_position + first_query + warp_row() + tile * 16 + half * 8 + lane() / 4;
  }

  __device__ void LoadQueries(int head, float sign) {
    for (int i = threadIdx.x; i < kRows * kChunks; i += kPrefillThreads) {
      const int row = i / kChunks;
      const int chunk = i % kChunks;
      uint4 piece = {};
      if (first_query + row < in.n_queries && chunk * 8 < in.head_dim) {
        const int64_t at =
            (static_cast<int64_t>(first_query + row) * in.n_heads + head) * in.head_dim + chunk * 8;
        if (in.q_type == DType::kF32) {
          piece = LoadRounded<Element>(static_cast<const float*>(in.q) + at, sign);
        } else {
          piece = __ldg(reinterpret_cast<const uint4*>(static_cast<const Element*>(in.q) + at));
          const uint32_t flip = sign < 0 ? 0x80008000u : 0;
          piece = make_uint4(piece.x ^ flip, piece.y ^ flip, piece.z ^ flip, piece.w ^ flip);
        }
      }
      *reinterpret_cast<uint4*>(shared + SwizzledOffset<kChunks>(row, chunk)) = piece;
    }
  }

  // A thread brings one chunk of every kRowStep-th row; its place in a row stays the same.
  __device__ void LoadRows(uint8_t* to, const Kv* from, int first_key) const {
    constexpr int kRowStep = kPrefillThreads / kChunks;
    static_assert(kPrefillThreads % kChunks == 0);
    const int row = threadIdx.x / kChunks;
    const int chunk = threadIdx.x % kChunks;
    const int64_t row_elements = static_cast<int64_t>(in.n_kv_heads) * in.head_dim;
    const Kv* piece = from + (first_key + row) * row_elements + kv_head * in.head_dim + chunk * 8;
    const int rows_left = chunk * 8 < in.head_dim ? n_visible - first_key - row : 0;
    const uint32_t address = SharedAddress(to);
#pragma unroll
    for (int n = 0; n < kPrefillKeys / kRowStep; ++n) {
      const bool exists = n * kRowStep < rows_left;
      const uint32_t offset = SwizzledOffset<kChunks>(row + n * kRowStep, chunk);
      if constexpr (std::is_same_v<Kv, Element>) {
        CopyAsync(address + offset, exists ? piece : from, exists);
      } else {
        *reinterpret_cast<uint4*>(to + offset) = exists ? LoadRounded<Element>(piece, 1) : uint4{};
      }
      piece += kRowStep * row_elements;
    }
  }
  __device__ void LoadTile(int tile) const {
    LoadRows(keys(tile % 2), static_cast<const Kv*>(in.k), tile * kPrefillKeys);
    LoadRows(values(tile % 2), static_cast<const Kv*>(in.v), tile * kPrefillKeys);
    CommitCopies();
  }

  __device__ void Scores(int stage, float (&s)[kRowTiles][kKeyTiles][4]) const {
    const uint32_t of_queries = SharedAddress(shared);
    const uint32_t of_keys = SharedAddress(keys(stage));
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        LoadMatrices(of_queries + SwizzledOffset<kChunks>(warp_row() + m * 16 + lane() % 16,
                                                          step * 2 + lane() / 16),
                     a[m]);
      }
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        uint32_t b[4];
        LoadMatrices(of_keys + SwizzledOffset<kChunks>(n * 8 + lane() / 16 * 8 + lane() % 8,
                                                       step * 2 + lane() / 8 % 2),
                     b);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          MultiplyAdd<Element>(s[m][n], a[m], b[0], b[1]);
          MultiplyAdd<Element>(s[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  __device__ void Mask(int first_key, float (&s)[kRowTiles][kKeyTiles][4]) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = first_key + n * 8 + lane() % 4 * 2 + e % 2;
          if (key > Position(m, e / 2)) s[m][n][e] = -INFINITY;
        }
  }

  // Scores become weights.
  __device__ void Softmax(float (&s)[kRowTiles][kKeyTiles][4]) {
    float larger[kRowTiles][2];
    bool rises = false;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float x = max[m][half];
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
          x = fmaxf(x, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        }
        x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
        x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
        larger[m][half] = x;
        rises = rises || x > max[m][half];
      }
    if (__any_sync(kAllLanes, rises)) Rescale(larger);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float shift = max[m][half] == -INFINITY ? 0 : max[m][half] * factor;
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[m][n][e] = Exp2(fmaf(s[m][n][e], factor, -shift));
            sum[m][half] += s[m][n][e];
          }
      }
  }

  __device__ void Rescale(const float (&larger)[kRowTiles][2]) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float scale = max[m][half] == larger[m][half]
                                ? 1.0f
                                : Exp2((max[m][half] - larger[m][half]) * factor);
        max[m][half] = larger[m][half];
        sum[m][half] *= scale;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          out[m][c][2 * half] *= scale;
          out[m][c][2 * half + 1] *= scale;
        }
      }
  }

  __device__ void AddValues(int stage, const float (&s)[kRowTiles][kKeyTiles][4]) {
    const uint32_t of_values = SharedAddress(values(stage));
#pragma unroll
    for (int step = 0; step < kPrefillKeys / 16; ++step) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        const float(&low)[4] = s[m][2 * step];
        const float(&high)[4] = s[m][2 * step + 1];
        a[m][0] = PackPair<Element>(low[0], low[1]);
        a[m][1] = PackPair<Element>(low[2], low[3]);
        a[m][2] = PackPair<Element>(high[0], high[1]);
        a[m][3] = PackPair<Element>(high[2], high[3]);
      }
#pragma unroll
      for (int c = 0; c < kColumns; c += 2) {
        uint32_t b[4];
        LoadMatricesTransposed(
            of_values + SwizzledOffset<kChunks>(step * 16 + lane() % 16, c + lane() / 16), b);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          MultiplyAdd<Element>(out[m][c], a[m], b[0], b[1]);
          MultiplyAdd<Element>(out[m][c + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // Whether this thread's share of a tile's values has one that is not finite; `clear` sets it to
  // 0.
  __device__ bool NonFinite(int stage, bool clear) const {
    constexpr uint32_t kExponent = std::is_same_v<Element, __half> ? 0x7c00u : 0x7f80u;
    auto* words = reinterpret_cast<uint32_t*>(values(stage));
    bool found = false;
#pragma unroll 4
    for (int i = threadIdx.x; i < kStageBytes / 4; i += kPrefillThreads) {
      uint32_t word = words[i];
      const bool low = (word & kExponent) == kExponent;
      const bool high = (word >> 16 & kExponent) == kExponent;
      found = found || low || high;
      if (clear && (low || high))
        words[i] = word & (low ? 0xffff0000u : ~0u) & (high ? 0xffffu : ~0u);
    }
    return found;
  }

  // All threads of the block together.
  __device__ void RemoveNonFinite(int stage, int first_key) {
    if (__syncthreads_or(NonFinite(stage, false)) == 0) return;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll 1
      for (int key = 0; key < kPrefillKeys; ++key) {
        const float2 pair = UnpackPair<Element>(*reinterpret_cast<const uint32_t*>(
            values(stage) + SwizzledOffset<kChunks>(key, c) + lane() % 4 * 4));
        const float of_value[2] = {pair.x, pair.y};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (isfinite(of_value[e % 2])) continue;
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            if (first_key + key <= Position(m, e / 2)) out[m][c][e] += of_value[e % 2];
          }
        }
      }
    }
    __syncthreads();
    NonFinite(stage, true);
    __syncthreads();
  }

  __device__ void Attend(int tile) {
    const int first_key = tile * kPrefillKeys;
    const int last_key = first_key + kPrefillKeys - 1;
    if (last_key > in.first_position + first_query) RemoveNonFinite(tile % 2, first_key);
    const int warp_first = in.first_position + first_query + warp_row();
    if (first_key > warp_first + kRowTiles * 16 - 1) return;
    float s[kRowTiles][kKeyTiles][4] = {};
    Scores(tile % 2, s);
    if (last_key > warp_first) Mask(first_key, s);
    Softmax(s);
    AddValues(tile % 2, s);
  }

  __device__ void Store(int head) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float total = sum[m][half];
        total += __shfl_xor_sync(kAllLanes, total, 1);
        total += __shfl_xor_sync(kAllLanes, total, 2);
        const int query = first_query + warp_row() + m * 16 + half * 8 + lane() / 4;
        if (query >= in.n_queries) continue;
        const float inverse = total == 0 ? 0 : 1 / total;
        const int64_t at = (static_cast<int64_t>(query) * in.n_heads + head) * in.head_dim;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int dim = c * 8 + lane() % 4 * 2;
          if (dim >= in.head_dim) continue;
          const float x = total == 0 ? 0 : out[m][c][2 * half] * inverse;
          const float y = total == 0 ? 0 : out[m][c][2 * half + 1] * inverse;
          if (in.out_type == DType::kF32) {
            *reinterpret_cast<float2*>(static_cast<float*>(in.out) + at + dim) = make_float2(x, y);
          } else {
            *reinterpret_cast<uint32_t*>(static_cast<Element*>(in.out) + at + dim) =
                PackPair<Element>(x, y);
          }
        }
      }
  }
};

template <typename Element, typename Kv, int kHeadDim, int kRowTiles>
__global__ void __launch_bounds__(kPrefillThreads, kHeadDim > 128 ? 1 : 2)
    PrefillTensorKernel(const __grid_constant__ PrefillInputs in) {
  using Block = PrefillBlock<Element, Kv, kHeadDim, kRowTiles>;
  extern __shared__ __align__(128) uint8_t prefill_shared[];
  const int first_query = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Block::kRows;
  const int head = blockIdx.y;
  const int n_visible = in.first_position + min(first_query + Block::kRows, in.n_queries);
  constexpr float kLog2E = 1.44269504f;
  Block block = {in,          prefill_shared, head / in.group,
                 first_query, n_visible,      fabsf(in.scale) * kLog2E};
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) block.max[m][0] = block.max[m][1] = -INFINITY;

  const int n_tiles = (n_visible + kPrefillKeys - 1) / kPrefillKeys;
  block.LoadTile(0);
  // A negative scale: its sign goes to the queries, so that the largest score is the maximum.
  block.LoadQueries(head, in.scale < 0 ? -1.0f : 1.0f);
#pragma unroll 1
  for (int tile = 0; tile < n_tiles; ++tile) {
    WaitForCopies();
    __syncthreads();
    if (tile + 1 < n_tiles) block.LoadTile(tile + 1);
    block.Attend(tile);
  }
  block.Store(head);
}

template <typename Element, typename Kv, int kHeadDim, int kRowTiles>
void LaunchPrefill(const Gpu& gpu, const PrefillInputs& in) {
  using Block = PrefillBlock<Element, Kv, kHeadDim, kRowTiles>;
  Launch(gpu, PrefillTensorKernel<Element, Kv, kHeadDim, kRowTiles>,
         {"PrefillAttention on tensor cores", dim3(CeilDiv(in.n_queries, Block::kRows), in.n_heads),
          kPrefillThreads, Block::kSharedBytes},
         in);
}

template <typename Element, typename Kv>
void LaunchPrefillFor(const Gpu& gpu, const PrefillInputs& in) {
  if (in.head_dim <= 64) return LaunchPrefill<Element, Kv, 64, 2>(gpu, in);
  if (in.head_dim <= 128) return LaunchPrefill<Element, Kv, 128, 2>(gpu, in);
  LaunchPrefill<Element, Kv, 256, 1>(gpu, in);
}

}  // namespace lexico::kernels::cuda

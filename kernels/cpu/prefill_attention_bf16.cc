// PrefillAttention with BF16 products: FlashAttention's recurrence on the tiles of bf16_tile.h and
// the rows of bf16_rows.h.
//
// For each tile of kPrefillTileKeysBf16 keys of a task (prefill_attention_tasks.h):
//
//   pack   K and V of the tile in panels of pairs, rounded to BF16
//   for each strip of rows:
//     S = Q K^T            q is scaled by scale * log2(e) when packed: exponentials are of base 2
//     m' = max(m, row max of S), P = 2^(S - m') in BF16, l = l 2^(m - m') + row sum of P
//     O = O 2^(m - m')     only rows whose maximum has grown: few after the first tiles
//     O += P V
//
// Memory at head_dim 128, group 4, AVX512_BF16 / AMX (bytes):
//   L1   strip of P 24 K / 32 K, a pair of panels of K 8 K or of V 32 K
//   L2   strip of S 48 K / 64 K, tiles of K and V 128 K each; the next tile's rows, 512 K, come
//        while this one is multiplied
//   L3   Q and O of the task, at most 512 K and 1 M, streamed once a tile
// Nothing grows with n_keys.
//
// Measured 2026-11-27, 2 cores of an AMD EPYC (Zen 5), AVX-512 BF16 + VNNI, no AMX, 512 queries
// after 15,872 keys, 8 query and 2 KV heads, GFLOP/s per thread by CPU time, against a peak of
// VDPBF16PS of 535:
//   oneDNN primitives for the two products, tiles of 512 keys, tasks of 256 rows       95
//   our products, softmax and packing written once for every instruction set          365
//   maxima of a strip before its exponentials                                         380
//   softmax and packing in AVX512_BF16, next tile prefetched                          410
//   tasks of 512 / 1,024 / 2,048 rows                                     360 / 407 / 423
//   tiles of 128 / 256 / 384 / 512 / 1,024 keys                  405 / 425 / 425 / 437 / 420
// Where the time goes: products 86 %, softmax 8 %, packing and prefetching 6 %. Two threads: 895
// together. No difference beyond noise: strips of 12, 36 or 48 rows; prefetching Q and O of the
// next strip; rows of S and P that are not a power of two apart. Prefetching panels into L1 in the
// inner loop cost 5 %.
//
// A row's result does not depend on the rest of the call, neither on the chunk nor on the threads:
// tiles start at multiples of kPrefillTileKeysBf16, keys a row does not see have weight 0, and 0
// times a finite value adds nothing. A tile of V that is not finite is summed row by row, with
// zeros in place of what the row does not see.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hwy/aligned_allocator.h"
#include "kernels/cpu/bf16_rows.h"
#include "kernels/cpu/bf16_tile.h"
#include "kernels/cpu/openmp.h"
#include "kernels/cpu/prefill_attention.h"
#include "kernels/cpu/prefill_attention_tasks.h"
#include "proto/base/check.h"

namespace lexico::kernels::cpu {

#if defined(__x86_64__)
namespace {

constexpr int64_t kTileKeys = kPrefillTileKeysBf16;
constexpr int64_t kTaskRows = 2048;  // rows that share one packing of a tile
constexpr int64_t kPad = 32;         // serves kBf16Depth and two panels of kBf16Columns
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
static_assert(kPad == kBf16Depth && kPad == kBf16Panels * kBf16Columns);

constexpr int64_t Padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

struct Tile {
  int64_t first_key;
  int64_t n_keys;      // visible to the task's last query
  bool finite_values;  // of V, rounded
};

// What one thread needs; reused from task to task.
class Worker {
 public:
  // n_keys: of the longest task.
  Worker(const Bf16Tile& unit, int64_t n_rows, int64_t n_keys, int64_t head_dim)
      : unit_(unit),
        tile_keys_(std::min(kTileKeys, Padded(n_keys))),
        head_dim_(head_dim),
        depth_(Padded(head_dim)),
        q_(hwy::AllocateAligned<uint16_t>(n_rows * depth_)),
        k_(hwy::AllocateAligned<uint16_t>(tile_keys_ * depth_)),
        v_(hwy::AllocateAligned<uint16_t>(tile_keys_ * depth_)),
        s_(hwy::AllocateAligned<float>(unit.rows * tile_keys_)),
        p_(hwy::AllocateAligned<uint16_t>(unit.rows * tile_keys_)),
        o_(hwy::AllocateAligned<float>(n_rows * depth_)),
        max_(hwy::AllocateAligned<float>(n_rows)),
        sum_(hwy::AllocateAligned<float>(n_rows)),
        padded_(hwy::AllocateAligned<float>(3 * depth_)),
        rounded_(hwy::AllocateAligned<uint16_t>(kBf16Columns * depth_)) {
    std::fill_n(padded_.get(), 3 * depth_, 0.0f);
  }

  void Run(const PrefillTask& task) {
    PackQueries(task);
    const int64_t n_strips = (task.n_rows() + unit_.rows - 1) / unit_.rows;
    for (int64_t first = 0; first < task.n_visible(); first += kTileKeys) {
      Tile tile{first, std::min(kTileKeys, task.n_visible() - first), true};
      PackKeys(task, tile);
      tile.finite_values = PackValues(task, tile);
      // From the last on: AddValuesByRow takes away what earlier rows do not see.
      for (int64_t strip = n_strips - 1; strip >= 0; --strip) Strip(task, tile, strip);
    }
    Finish(task);
  }

 private:
  // A row of q, k or v with zeros to whole vectors: where it lies, or its copy in place `i`.
  const float* PaddedRow(const float* row, int64_t i) {
    if (head_dim_ == depth_) return row;
    return std::copy_n(row, head_dim_, padded_.get() + i * depth_) - head_dim_;
  }
  const float* zeros() const { return padded_.get() + 2 * depth_; }

  static const float* KeyRow(const PrefillTask& task, const TensorView& from, int64_t key) {
    return from.as<float>() + (key * from.dim(1) + task.kv_head) * from.dim(2);
  }

  void PackQueries(const PrefillTask& task) {
    const int64_t n_rows = (task.n_rows() + unit_.rows - 1) / unit_.rows * unit_.rows;
    const float* q = task.args->q.as<float>();
    for (int64_t row = 0; row < n_rows; ++row)
      RoundRow(row < task.n_rows() ? PaddedRow(q + task.offset(row), 0) : zeros(), depth_,
               task.args->scale * kLog2E, q_.get() + row * depth_);
    std::fill_n(o_.get(), n_rows * depth_, 0.0f);
    std::fill_n(max_.get(), n_rows, kMinusInfinity);
    std::fill_n(sum_.get(), n_rows, 0.0f);
  }

  // Keys become columns; those past the last are 0.
  void PackKeys(const PrefillTask& task, const Tile& tile) {
    for (int64_t key = 0; key < Padded(tile.n_keys); key += kBf16Columns) {
      for (int64_t j = 0; j < kBf16Columns; ++j) {
        const float* row = key + j < tile.n_keys
                               ? PaddedRow(KeyRow(task, task.args->k, tile.first_key + key + j), 0)
                               : zeros();
        RoundRow(row, depth_, 1.0f, rounded_.get() + j * depth_);
      }
      PackColumns(rounded_.get(), depth_, k_.get() + key * depth_);
    }
  }

  // Keys become pairs; those past the last are 0. Returns whether all values are finite in BF16.
  bool PackValues(const PrefillTask& task, const Tile& tile) {
    bool finite = true;
    for (int64_t key = 0; key < Padded(tile.n_keys); key += 2) {
      const float* rows[2];
      for (int64_t j = 0; j < 2; ++j)
        rows[j] = key + j < tile.n_keys
                      ? PaddedRow(KeyRow(task, task.args->v, tile.first_key + key + j), j)
                      : zeros();
      finite &= PackPairs(rows[0], rows[1], depth_, Value(key, 0), kBf16Columns * tile_keys_);
    }
    return finite;
  }

  // Place of V(key, i) in the packed tile.
  uint16_t* Value(int64_t key, int64_t i) {
    return v_.get() + i / kBf16Columns * kBf16Columns * tile_keys_ + key / 2 * 2 * kBf16Columns +
           i % kBf16Columns * 2 + key % 2;
  }

  // Asks for a strip's share of the next tile's rows, to come while the strip is multiplied.
  void Prefetch(const PrefillTask& task, const TensorView& from, const Tile& tile,
                int64_t strip) const {
    constexpr int64_t kLine = 64 / sizeof(float);
    const int64_t n_strips = (task.n_rows() + unit_.rows - 1) / unit_.rows;
    const int64_t next = tile.first_key + kTileKeys;
    const int64_t n_keys = std::clamp<int64_t>(task.n_visible() - next, 0, kTileKeys);
    const int64_t end = n_keys * (strip + 1) / n_strips;
    for (int64_t key = n_keys * strip / n_strips; key < end; ++key) {
      const float* row = KeyRow(task, from, next + key);
      for (int64_t i = 0; i < head_dim_; i += kLine) __builtin_prefetch(row + i, 0, 2);
    }
  }

  void Strip(const PrefillTask& task, const Tile& tile, int64_t strip) {
    const int64_t first_row = strip * unit_.rows;
    const auto visible = [&](int64_t row) {
      return std::clamp<int64_t>(task.position(row) + 1 - tile.first_key, 0, tile.n_keys);
    };
    const int64_t n_keys = Padded(visible(first_row + unit_.rows - 1));
    if (n_keys == 0) return;
    Prefetch(task, task.args->k, tile, strip);
    unit_.multiply({.a = q_.get() + first_row * depth_,
                    .a_stride = depth_,
                    .b = k_.get(),
                    .panel_stride = kBf16Columns * depth_,
                    .depth = depth_,
                    .n_panels = n_keys / kBf16Columns,
                    .y = s_.get(),
                    .y_stride = tile_keys_,
                    .accumulate = false});
    Softmax(first_row, n_keys, visible);
    Prefetch(task, task.args->v, tile, strip);
    if (tile.finite_values) return AddValues(first_row, n_keys);
    AddValuesByRow(first_row, n_keys, visible);
  }

  // S becomes P. The maxima first: a row's exponentials need not wait for its maximum.
  template <class Visible>
  void Softmax(int64_t first_row, int64_t n_keys, const Visible& visible) {
    for (int64_t r = 0; r < unit_.rows; ++r) {
      const int64_t row = first_row + r;
      const float most = RowMax(s_.get() + r * tile_keys_, visible(row), max_[row]);
      if (most == max_[row]) continue;
      const float factor = std::exp2(max_[row] - most);
      max_[row] = most;
      sum_[row] *= factor;
      ScaleRow(factor, depth_, o_.get() + row * depth_);
    }
    for (int64_t r = 0; r < unit_.rows; ++r) {
      const int64_t row = first_row + r;
      sum_[row] += RowWeights(s_.get() + r * tile_keys_, n_keys, visible(row), max_[row],
                              p_.get() + r * tile_keys_);
    }
  }

  // O += P V of a strip over the first n_keys keys of the tile.
  void AddValues(int64_t first_row, int64_t n_keys) {
    unit_.multiply({.a = p_.get(),
                    .a_stride = tile_keys_,
                    .b = v_.get(),
                    .panel_stride = kBf16Columns * tile_keys_,
                    .depth = n_keys,
                    .n_panels = depth_ / kBf16Columns,
                    .y = o_.get() + first_row * depth_,
                    .y_stride = depth_,
                    .accumulate = true});
  }

  // As AddValues, but 0 * infinity does not reach a row that does not see the infinity: from the
  // last row to the first, what the row does not see becomes 0, and of the strip's product only
  // the row is kept. Slow, for values that no sound model has.
  template <class Visible>
  void AddValuesByRow(int64_t first_row, int64_t n_keys, const Visible& visible) {
    float* o = o_.get() + first_row * depth_;
    const int64_t size = unit_.rows * depth_;
    const auto before = hwy::AllocateAligned<float>(size);
    const auto after = hwy::AllocateAligned<float>(size);
    std::copy_n(o, size, before.get());
    for (int64_t r = unit_.rows - 1; r >= 0; --r) {
      for (int64_t key = visible(first_row + r); key < n_keys; ++key)
        for (int64_t i = 0; i < depth_; ++i) *Value(key, i) = 0;
      std::copy_n(before.get(), size, o);
      AddValues(first_row, n_keys);
      std::copy_n(o + r * depth_, depth_, after.get() + r * depth_);
    }
    std::copy_n(after.get(), size, o);
  }

  void Finish(const PrefillTask& task) const {
    for (int64_t row = 0; row < task.n_rows(); ++row) {
      float* to = task.args->out.as_mutable<float>() + task.offset(row);
      const float inverse = sum_[row] == 0 ? 0.0f : 1.0f / sum_[row];
      for (int64_t i = 0; i < head_dim_; ++i) {
        // The units flush what is below the smallest normal number, and a zero's sign is lost when
        // they add 0; whether they did depends on the other rows of the strip.
        const float o = o_[row * depth_ + i];
        to[i] = std::fabs(o) < std::numeric_limits<float>::min() ? 0.0f : o * inverse;
      }
    }
  }

  const Bf16Tile& unit_;
  int64_t tile_keys_;  // kTileKeys, or fewer where there are fewer
  int64_t head_dim_;
  int64_t depth_;                                  // head_dim with zeros to whole tiles
  hwy::AlignedFreeUniquePtr<uint16_t[]> q_;        // [rows, depth]
  hwy::AlignedFreeUniquePtr<uint16_t[]> k_;        // panels [tile_keys / 16][depth / 2][16][2]
  hwy::AlignedFreeUniquePtr<uint16_t[]> v_;        // panels [depth / 16][tile_keys / 2][16][2]
  hwy::AlignedFreeUniquePtr<float[]> s_;           // [unit.rows, tile_keys]
  hwy::AlignedFreeUniquePtr<uint16_t[]> p_;        // [unit.rows, tile_keys]
  hwy::AlignedFreeUniquePtr<float[]> o_;           // [rows, depth]
  hwy::AlignedFreeUniquePtr<float[]> max_;         // [rows]
  hwy::AlignedFreeUniquePtr<float[]> sum_;         // [rows]
  hwy::AlignedFreeUniquePtr<float[]> padded_;      // [3, depth]: two rows with zeros, zeros
  hwy::AlignedFreeUniquePtr<uint16_t[]> rounded_;  // [16, depth]
};

}  // namespace

void PrefillAttentionBf16(const PrefillAttentionArgs& args, const Bf16Tile& unit, int threads) {
  const PrefillTasks tasks(args, kTaskRows, unit.rows, threads);
  const int64_t products = args.q.size() * (args.first_position + args.q.dim(0));
#pragma omp parallel num_threads(UsefulThreads(products, threads))
  {
    Worker worker(unit, tasks.n_rows(), args.first_position + args.q.dim(0), args.q.dim(2));
    if (unit.begin != nullptr) unit.begin();
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tasks.size(); ++i) worker.Run(tasks[i]);
    if (unit.end != nullptr) unit.end();
  }
}

#else
void PrefillAttentionBf16(const PrefillAttentionArgs&, const Bf16Tile&, int) {
  LEXICO_UNREACHABLE();  // there is no Bf16Tile
}
#endif

void PrefillAttention(const PrefillAttentionArgs& args, const Bf16Tile* unit, int threads) {
  if (unit != nullptr && args.allow_bf16) return PrefillAttentionBf16(args, *unit, threads);
  PrefillAttentionF32(args, threads);
}

}  // namespace lexico::kernels::cpu

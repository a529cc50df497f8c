// PrefillAttention in F32: FlashAttention's recurrence on the register tile of matmul_tile-inl.h.
//
// For each tile of kPrefillTileKeys keys of a task (prefill_attention_tasks.h):
//
//   pack   K and V of the tile in panels of 16 keys and of 16 dimensions
//   for each strip of kStripRows rows:
//     S = Q K^T            q is scaled by scale * log2(e) when packed: exponentials are of base 2
//     m' = max(m, row max of S), P = 2^(S - m'), l = l 2^(m - m') + row sum of P
//     O = O 2^(m - m') + P V
//
// Memory at head_dim 128, group 4 (bytes):
//   L1   strip of S 12 K, one panel of K or V 8 K, strip of Q or O 12 K
//   L2   tiles of K and V 64 K each
//   L3   Q and O of the task, at most 512 K each, streamed once a tile
// Nothing grows with n_keys.
//
// Measured, one core of Zen 3 shared with other work, 256 queries after 3,840 keys, FLOP per CPU
// second against the FMA peak of the same run (best of 7):
//   K packed by scalar stores, tasks of 256 rows   62 %   packing was 18 % of the time
//   4x4 transposes, tasks of 256 rows              66 %
//   tasks of 512 rows / 1024 rows                  72 % / 73 %
//   strips of 12 or 48 rows, tiles of 256 keys     no difference beyond noise; tiles of 64: 69 %
// One core of an AMD EPYC (Zen 5), AVX-512, 2026-11-27, 512 queries after 15,872 keys, against
// 267 GFLOP/s (in a quiet moment 85 % of it with two panels):
//   register tiles of 12 rows x 1 panel / x 2 panels   203 / 218 GFLOP/s
//
// A row's result does not depend on the rest of the call: tiles start at multiples of
// kPrefillTileKeys, masked scores are replaced (never added to), and a term of weight 0 adds
// nothing. Only where a value in a tile is not finite would 0 * value show; such tiles are summed
// query by query up to what the query sees.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hwy/aligned_allocator.h"
#include "kernels/cpu/openmp.h"
#include "kernels/cpu/prefill_attention.h"
#include "kernels/cpu/prefill_attention_tasks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/prefill_attention_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/elementwise_exp-inl.h"
#include "kernels/cpu/matmul_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kTileKeys = kPrefillTileKeys;
inline constexpr int64_t kStripRows = 24;   // a multiple of every kTileRows
inline constexpr int64_t kTaskRows = 1024;  // rows that share one packing of a tile
inline constexpr int64_t kPanel = kPanelColumns;
// Panels a register tile takes: with two, the 32 registers of AVX-512 hold 24 accumulators, and a
// step loads 14 vectors for 24 multiply-adds instead of 13 for 12.
inline constexpr int64_t kPanels = kLanes == 16 ? 2 : 1;
inline constexpr int64_t kTileColumns = kPanels * kPanel;
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// One task and its thread's scratch, which is reused from task to task.
struct Task : PrefillTask {
  int64_t v_columns;  // head_dim rounded up to whole register tiles
  float* q;           // [n_strips * kStripRows / kTileRows, head_dim, kTileRows]
  float* k;           // [kTileKeys / 16, head_dim, 16]
  float* v;           // [v_columns / 16, kTileKeys, 16]
  float* s;           // [kStripRows, kTileKeys]
  float* o;           // [n_strips * kStripRows, v_columns]
  float* max;         // [n_strips * kStripRows]
  float* sum;         // [n_strips * kStripRows]
};

struct Tile {
  int64_t first_key;
  int64_t n_keys;      // visible to the task's last query
  bool finite_values;  // of V
};

void PackQueries(const Task& t) {
  const float scale = t.args->scale * kLog2E;
  const int64_t n_padded = (t.n_rows() + kStripRows - 1) / kStripRows * kStripRows;
  for (int64_t row = 0; row < n_padded; ++row) {
    float* to = t.q + row / kTileRows * kTileRows * t.head_dim() + row % kTileRows;
    if (row >= t.n_rows()) {
      for (int64_t i = 0; i < t.head_dim(); ++i) to[i * kTileRows] = 0;
      continue;
    }
    const float* from = t.args->q.as<float>() + t.offset(row);
    for (int64_t i = 0; i < t.head_dim(); ++i) to[i * kTileRows] = from[i] * scale;
  }
  std::fill(t.o, t.o + n_padded * t.v_columns, 0.0f);
  std::fill(t.max, t.max + n_padded, kMinusInfinity);
  std::fill(t.sum, t.sum + n_padded, 0.0f);
}

// to[i * kPanel + j] = from[j * stride + i] for 4 keys j and 4 components i.
HWY_INLINE void Transpose4x4(const float* HWY_RESTRICT from, int64_t stride,
                             float* HWY_RESTRICT to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t j = 0; j < 4; ++j)
    for (int64_t i = 0; i < 4; ++i) to[i * kPanel + j] = from[j * stride + i];
#else
  const hn::CappedTag<float, 4> d4;
  const hn::Repartition<uint64_t, decltype(d4)> d2;
  const auto row0 = hn::LoadU(d4, from);
  const auto row1 = hn::LoadU(d4, from + stride);
  const auto row2 = hn::LoadU(d4, from + 2 * stride);
  const auto row3 = hn::LoadU(d4, from + 3 * stride);
  const auto low01 = hn::BitCast(d2, hn::InterleaveLower(d4, row0, row1));
  const auto low23 = hn::BitCast(d2, hn::InterleaveLower(d4, row2, row3));
  const auto high01 = hn::BitCast(d2, hn::InterleaveUpper(d4, row0, row1));
  const auto high23 = hn::BitCast(d2, hn::InterleaveUpper(d4, row2, row3));
  hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, low01, low23)), d4, to);
  hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, low01, low23)), d4, to + kPanel);
  hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, high01, high23)), d4, to + 2 * kPanel);
  hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, high01, high23)), d4, to + 3 * kPanel);
#endif
}

// Keys become columns. Keys past the last are 0; their scores are masked.
HWY_NOINLINE void PackKeys(const Task& t, const Tile& tile) {
  const int64_t stride = t.args->k.dim(1) * t.head_dim();
  const float* from = t.args->k.as<float>() + tile.first_key * stride + t.kv_head * t.head_dim();
  for (int64_t key = 0; key < tile.n_keys; key += 4) {
    float* to = t.k + key / kPanel * kPanel * t.head_dim() + key % kPanel;
    const float* rows = from + key * stride;
    const int64_t n = std::min<int64_t>(4, tile.n_keys - key);
    int64_t i = 0;
    if (n == 4)
      for (; i + 4 <= t.head_dim(); i += 4) Transpose4x4(rows + i, stride, to + i * kPanel);
    for (; i < t.head_dim(); ++i)
      for (int64_t j = 0; j < 4; ++j) to[i * kPanel + j] = j < n ? rows[j * stride + i] : 0.0f;
  }
  for (int64_t key = (tile.n_keys + 3) / 4 * 4; key % kTileColumns != 0; ++key) {
    float* to = t.k + key / kPanel * kPanel * t.head_dim() + key % kPanel;
    for (int64_t i = 0; i < t.head_dim(); ++i) to[i * kPanel] = 0;
  }
}

// Returns whether all values are finite.
HWY_NOINLINE bool PackValues(const Task& t, const Tile& tile) {
  const DF df;
  const int64_t stride = t.args->v.dim(1) * t.head_dim();
  const float* from = t.args->v.as<float>() + tile.first_key * stride + t.kv_head * t.head_dim();
  VF zero_or_nan = hn::Zero(df);
  float tail = 0;
  for (int64_t key = 0; key < tile.n_keys; ++key) {
    const float* row = from + key * stride;
    for (int64_t column = 0; column < t.v_columns; column += kPanel) {
      float* to = t.v + (column * kTileKeys) + key * kPanel;
      if (column + kPanel <= t.head_dim()) {
        for (size_t i = 0; i < kPanelColumns; i += kLanes) {
          const VF v = hn::LoadU(df, row + column + i);
          hn::StoreU(v, df, to + i);
          zero_or_nan = hn::MulAdd(v, hn::Zero(df), zero_or_nan);
        }
      } else {
        for (int64_t i = 0; i < kPanel; ++i) {
          to[i] = column + i < t.head_dim() ? row[column + i] : 0.0f;
          tail += to[i] * 0.0f;
        }
      }
    }
  }
  return hn::GetLane(hn::SumOfLanes(df, zero_or_nan)) + tail == 0.0f;
}

// S of a strip over the first n_keys keys of the tile (rounded up to a panel).
HWY_NOINLINE void Scores(const Task& t, int64_t strip, int64_t n_keys) {
  const DF df;
  for (int64_t panel = 0; panel * kPanel < n_keys; panel += kPanels) {
    for (int64_t row = 0; row < kStripRows; row += kTileRows) {
      float* to = t.s + row * kTileKeys + panel * kPanel;
      TileProduct<kTileRows, kPanels>(
          t.q + (strip * kStripRows + row) * t.head_dim(), 1, kTileRows,
          t.k + panel * kPanel * t.head_dim(), kPanel * t.head_dim(), t.head_dim(),
          [](size_t, size_t, size_t) HWY_ATTR { return hn::Zero(DF()); },
          [&](size_t r, size_t p, size_t v, VF value)
              HWY_ATTR { hn::StoreU(value, df, to + r * kTileKeys + p * kPanel + v * kLanes); });
    }
  }
}

// S becomes P; updates max and sum and returns in `rescale` what O is to be multiplied with.
HWY_NOINLINE void Softmax(const Task& t, const Tile& tile, int64_t strip, int64_t n_keys,
                          float* HWY_RESTRICT rescale) {
  const DF df;
  const int64_t n_padded = (n_keys + kPanel - 1) / kPanel * kPanel;
  for (int64_t r = 0; r < kStripRows; ++r) {
    const int64_t row = strip * kStripRows + r;
    float* HWY_RESTRICT s = t.s + r * kTileKeys;
    const int64_t visible = std::clamp<int64_t>(t.position(row) + 1 - tile.first_key, 0, n_keys);
    for (int64_t key = visible; key < n_padded; ++key) s[key] = kMinusInfinity;
    VF max = hn::Set(df, t.max[row]);
    for (int64_t key = 0; key < n_padded; key += kLanes) max = hn::Max(max, hn::LoadU(df, s + key));
    const float m = hn::GetLane(hn::MaxOfLanes(df, max));
    const VF shift = hn::Set(df, m == kMinusInfinity ? 0.0f : m);
    VF sum = hn::Zero(df);
    for (int64_t key = 0; key < n_padded; key += kLanes) {
      const VF p = Exp2NonPositive(df, hn::Sub(hn::LoadU(df, s + key), shift));
      hn::StoreU(p, df, s + key);
      sum = hn::Add(sum, p);
    }
    const float factor = t.max[row] == m ? 1.0f : std::exp2(t.max[row] - m);
    rescale[r] = factor;
    t.max[row] = m;
    t.sum[row] = t.sum[row] * factor + hn::GetLane(hn::SumOfLanes(df, sum));
  }
}

// O = O * rescale + P V over the first n_keys keys, for kRows rows from row r of the strip on and
// the 16 dimensions from `column` on.
template <size_t kRows>
HWY_INLINE void Values(const Task& t, int64_t strip, int64_t r, int64_t column, int64_t n_keys,
                       const float* HWY_RESTRICT rescale) {
  const DF df;
  float* o = t.o + (strip * kStripRows + r) * t.v_columns + column;
  TileProduct<kRows, kPanels>(
      t.s + r * kTileKeys, kTileKeys, 1, t.v + column * kTileKeys, kPanel * kTileKeys, n_keys,
      [&](size_t i, size_t p, size_t v) HWY_ATTR {
        return hn::Mul(hn::LoadU(df, o + i * t.v_columns + p * kPanel + v * kLanes),
                       hn::Set(df, rescale[r + i]));
      },
      [&](size_t i, size_t p, size_t v, VF value)
          HWY_ATTR { hn::StoreU(value, df, o + i * t.v_columns + p * kPanel + v * kLanes); });
}

HWY_NOINLINE void ValuesOfStrip(const Task& t, int64_t strip, int64_t n_keys,
                                const float* rescale) {
  for (int64_t column = 0; column < t.v_columns; column += kTileColumns)
    for (int64_t r = 0; r < kStripRows; r += kTileRows)
      Values<kTileRows>(t, strip, r, column, n_keys, rescale);
}

// As ValuesOfStrip, but a row takes only the keys it sees: 0 * infinity must not reach it.
HWY_NOINLINE void ValuesByRow(const Task& t, const Tile& tile, int64_t strip, int64_t n_keys,
                              const float* rescale) {
  for (int64_t r = 0; r < kStripRows; ++r) {
    const int64_t visible =
        std::clamp<int64_t>(t.position(strip * kStripRows + r) + 1 - tile.first_key, 0, n_keys);
    for (int64_t column = 0; column < t.v_columns; column += kTileColumns)
      Values<1>(t, strip, r, column, visible, rescale);
  }
}

void Finish(const Task& t) {
  for (int64_t row = 0; row < t.n_rows(); ++row) {
    float* to = t.args->out.as_mutable<float>() + t.offset(row);
    const float* from = t.o + row * t.v_columns;
    const float inverse = t.sum[row] == 0 ? 0.0f : 1.0f / t.sum[row];
    for (int64_t i = 0; i < t.head_dim(); ++i) to[i] = from[i] * inverse;
  }
}

void RunTask(const Task& t) {
  PackQueries(t);
  const int64_t n_strips = (t.n_rows() + kStripRows - 1) / kStripRows;
  float rescale[kStripRows];
  for (int64_t first = 0; first < t.n_visible(); first += kTileKeys) {
    Tile tile{first, std::min(kTileKeys, t.n_visible() - first), true};
    PackKeys(t, tile);
    tile.finite_values = PackValues(t, tile);
    for (int64_t strip = 0; strip < n_strips; ++strip) {
      const int64_t last = t.position((strip + 1) * kStripRows - 1);
      const int64_t n_keys = std::min(tile.n_keys, last + 1 - first);
      if (n_keys <= 0) continue;
      Scores(t, strip, n_keys);
      Softmax(t, tile, strip, n_keys, rescale);
      if (tile.finite_values) {
        ValuesOfStrip(t, strip, n_keys, rescale);
      } else {
        ValuesByRow(t, tile, strip, n_keys, rescale);
      }
    }
  }
  Finish(t);
}

void PrefillOnTarget(const PrefillAttentionArgs& args, int threads) {
  const int64_t head_dim = args.q.dim(2);
  const PrefillTasks tasks(args, kTaskRows, kStripRows, threads);
  const int64_t n_rows = tasks.n_rows();
  const int64_t v_columns = (head_dim + kTileColumns - 1) / kTileColumns * kTileColumns;
  const int64_t products = args.q.size() * (args.first_position + args.q.dim(0));
#pragma omp parallel num_threads(UsefulThreads(products, threads))
  {
    const auto q = hwy::AllocateAligned<float>(n_rows * head_dim);
    const auto k = hwy::AllocateAligned<float>(kTileKeys * head_dim);
    const auto v = hwy::AllocateAligned<float>(kTileKeys * v_columns);
    const auto s = hwy::AllocateAligned<float>(kStripRows * kTileKeys);
    const auto o = hwy::AllocateAligned<float>(n_rows * v_columns);
    const auto stats = hwy::AllocateAligned<float>(2 * n_rows);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tasks.size(); ++i)
      RunTask({tasks[i], v_columns, q.get(), k.get(), v.get(), s.get(), o.get(), stats.get(),
               stats.get() + n_rows});
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lexico::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(PrefillOnTarget);

void PrefillAttentionF32(const PrefillAttentionArgs& args, int threads) {
  HWY_DYNAMIC_DISPATCH(PrefillOnTarget)(args, threads);
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

// PrefillAttention with BF16 products: FlashAttention's recurrence on the tiles of bf16_tile.h.
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
// A row's result does not depend on the rest of the call, neither on the chunk nor on the threads:
// tiles start at multiples of kPrefillTileKeysBf16, keys a row does not see have weight 0, and 0
// times a finite value adds nothing. A tile of V that is not finite is summed row by row, with
// zeros in place of what the row does not see.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hwy/aligned_allocator.h"
#include "kernels/cpu/bf16_tile.h"
#include "kernels/cpu/openmp.h"
#include "kernels/cpu/prefill_attention.h"
#include "kernels/cpu/prefill_attention_tasks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/prefill_attention_bf16.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/elementwise_exp-inl.h"
#include "kernels/cpu/panel_transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kTileKeys = kPrefillTileKeysBf16;
inline constexpr int64_t kTaskRows = 1024;  // rows that share one packing of a tile
inline constexpr int64_t kPad = 32;         // serves kBf16Depth and two panels of kBf16Columns
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
static_assert(kPad == kBf16Depth && kPad == kBf16Panels * kBf16Columns);

using DF = hn::CappedTag<float, kBf16Columns>;
using DU32 = hn::RebindToUnsigned<DF>;
using VF = hn::Vec<DF>;
using VU32 = hn::Vec<DU32>;
inline constexpr int64_t kLanes = hn::MaxLanes(DF());

constexpr int64_t Padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// kernels/cpu/prefill_attention.h.
float SoftmaxRow(const float* HWY_RESTRICT scores, int64_t n, int64_t visible,
                 float* HWY_RESTRICT max, float* HWY_RESTRICT sum, uint16_t* HWY_RESTRICT weights) {
  const DF df;
  const DU32 du32;
  const int64_t whole = visible / kLanes * kLanes;
  const auto load = [&](int64_t i) HWY_ATTR {
    const VF s = hn::LoadU(df, scores + i);
    if (i < whole) return s;
    return hn::IfThenElse(hn::FirstN(df, visible - i), s, hn::Set(df, kMinusInfinity));
  };
  VF most = hn::Set(df, *max);
  for (int64_t i = 0; i < visible; i += kLanes) most = hn::Max(most, load(i));
  const float m = hn::GetLane(hn::MaxOfLanes(df, most));
  const VF shift = hn::Set(df, m == kMinusInfinity ? 0.0f : m);
  VF total = hn::Zero(df);
  int64_t i = 0;
  for (; i < visible; i += kLanes) {
    const VF e = Exp2NonPositive(df, hn::Sub(load(i), shift));
    // In [0, 1] or NaN, which the minimum makes the NaN of BF16 whatever its sign and payload:
    // adding half a unit of BF16 rounds to nearest, ties up, and carries into no sign.
    const VU32 bits = hn::Min(hn::BitCast(du32, e), hn::Set(du32, 0x7fc00000u));
    const VU32 high = hn::ShiftRight<16>(hn::Add(bits, hn::Set(du32, 0x8000u)));
    total = hn::Add(total, hn::BitCast(df, hn::ShiftLeft<16>(high)));
    StoreHalves(du32, high, weights + i);
  }
  for (; i < n; i += kLanes) StoreHalves(du32, hn::Zero(du32), weights + i);
  const float factor = *max == m ? 1.0f : std::exp2(*max - m);
  *max = m;
  *sum = *sum * factor + hn::GetLane(hn::SumOfLanes(df, total));
  return factor;
}

struct Tile {
  int64_t first_key;
  int64_t n_keys;      // visible to the task's last query
  bool finite_values;  // of V, rounded
};

// What one thread needs; reused from task to task.
class Worker {
 public:
  Worker(const Bf16Tile& unit, int64_t n_rows, int64_t head_dim)
      : unit_(unit),
        head_dim_(head_dim),
        depth_(Padded(head_dim)),
        q_(hwy::AllocateAligned<uint16_t>(n_rows * depth_)),
        k_(hwy::AllocateAligned<uint16_t>(kTileKeys * depth_)),
        v_(hwy::AllocateAligned<uint16_t>(kTileKeys * depth_)),
        s_(hwy::AllocateAligned<float>(unit.rows * kTileKeys)),
        p_(hwy::AllocateAligned<uint16_t>(unit.rows * kTileKeys)),
        o_(hwy::AllocateAligned<float>(n_rows * depth_)),
        max_(hwy::AllocateAligned<float>(n_rows)),
        sum_(hwy::AllocateAligned<float>(n_rows)),
        row_(hwy::AllocateAligned<float>(2 * depth_)),
        rounded_(hwy::AllocateAligned<uint16_t>(kBf16Columns * depth_)) {
    std::fill_n(row_.get(), 2 * depth_, 0.0f);
  }

  void Run(const PrefillTask& task) {
    PackQueries(task);
    const int64_t n_strips = (task.n_rows() + unit_.rows - 1) / unit_.rows;
    for (int64_t first = 0; first < task.n_visible(); first += kTileKeys) {
      Tile tile{first, std::min(kTileKeys, task.n_visible() - first), true};
      PackKeys(task, tile);
      tile.finite_values = PackValues(task, tile);
      // From the last on: HideValues takes away what earlier rows do not see.
      for (int64_t strip = n_strips - 1; strip >= 0; --strip) Strip(task, tile, strip);
    }
    Finish(task);
  }

 private:
  // A row of q, k or v in whole vectors: where it lies, or a copy with zeros after it.
  HWY_INLINE const float* WholeRow(const float* row, float* space) const {
    if (head_dim_ == depth_) return row;
    return std::copy_n(row, head_dim_, space) - head_dim_;
  }

  HWY_INLINE void NarrowRow(const float* HWY_RESTRICT row, float factor,
                            uint16_t* HWY_RESTRICT to) const {
    const DF df;
    const VF scale = hn::Set(df, factor);
    for (int64_t i = 0; i < depth_; i += kLanes)
      StoreHalves(DU32(), RoundToBf16(df, hn::Mul(hn::LoadU(df, row + i), scale)), to + i);
  }

  void PackQueries(const PrefillTask& task) {
    const int64_t n_rows = (task.n_rows() + unit_.rows - 1) / unit_.rows * unit_.rows;
    const float* q = task.args->q.as<float>();
    for (int64_t row = 0; row < task.n_rows(); ++row)
      NarrowRow(WholeRow(q + task.offset(row), row_.get()), task.args->scale * kLog2E,
                q_.get() + row * depth_);
    std::fill(q_.get() + task.n_rows() * depth_, q_.get() + n_rows * depth_, uint16_t{0});
    std::fill_n(o_.get(), n_rows * depth_, 0.0f);
    std::fill_n(max_.get(), n_rows, kMinusInfinity);
    std::fill_n(sum_.get(), n_rows, 0.0f);
  }

  // Keys become columns; those past the last are 0.
  HWY_NOINLINE void PackKeys(const PrefillTask& task, const Tile& tile) {
    const int64_t stride = task.args->k.dim(1) * head_dim_;
    const float* from =
        task.args->k.as<float>() + tile.first_key * stride + task.kv_head * head_dim_;
    for (int64_t key = 0; key < Padded(tile.n_keys); key += kBf16Columns) {
      const int64_t n = std::clamp<int64_t>(tile.n_keys - key, 0, kBf16Columns);
      for (int64_t j = 0; j < n; ++j)
        NarrowRow(WholeRow(from + (key + j) * stride, row_.get()), 1.0f,
                  rounded_.get() + j * depth_);
      // A pair of BF16 is moved as one F32 number.
      TransposePanel(reinterpret_cast<const float*>(rounded_.get()), depth_ / 2, n, depth_ / 2,
                     reinterpret_cast<float*>(k_.get() + key * depth_));
    }
  }

  // Keys become pairs; those past the last are 0. Returns whether all values are finite in BF16.
  HWY_NOINLINE bool PackValues(const PrefillTask& task, const Tile& tile) {
    const DF df;
    const DU32 du32;
    const int64_t stride = task.args->v.dim(1) * head_dim_;
    const float* from =
        task.args->v.as<float>() + tile.first_key * stride + task.kv_head * head_dim_;
    VU32 most = hn::Zero(du32);
    for (int64_t key = 0; key < Padded(tile.n_keys); key += 2) {
      const bool has0 = key < tile.n_keys;
      const bool has1 = key + 1 < tile.n_keys;
      const float* row0 = has0 ? WholeRow(from + key * stride, row_.get()) : nullptr;
      const float* row1 = has1 ? WholeRow(from + (key + 1) * stride, row_.get() + depth_) : nullptr;
      for (int64_t i = 0; i < depth_; i += kLanes) {
        const VU32 even = has0 ? RoundToBf16(df, hn::LoadU(df, row0 + i)) : hn::Zero(du32);
        const VU32 odd = has1 ? RoundToBf16(df, hn::LoadU(df, row1 + i)) : hn::Zero(du32);
        for (const VU32 bits : {even, odd})
          most = hn::Max(most, hn::And(bits, hn::Set(du32, 0x7fff)));
        uint16_t* to = Value(key, i);
        hn::StoreU(hn::Or(even, hn::ShiftLeft<16>(odd)), du32, reinterpret_cast<uint32_t*>(to));
      }
    }
    return hn::GetLane(hn::MaxOfLanes(du32, most)) < 0x7f80;
  }

  // Place of V(key, i) in the packed tile.
  uint16_t* Value(int64_t key, int64_t i) {
    const int64_t panel = i / kBf16Columns;
    return v_.get() + panel * kBf16Columns * kTileKeys + key / 2 * 2 * kBf16Columns +
           i % kBf16Columns * 2 + key % 2;
  }

  void Strip(const PrefillTask& task, const Tile& tile, int64_t strip) {
    const int64_t first_row = strip * unit_.rows;
    const auto visible = [&](int64_t row) {
      return std::clamp<int64_t>(task.position(row) + 1 - tile.first_key, 0, tile.n_keys);
    };
    const int64_t n_keys = Padded(visible(first_row + unit_.rows - 1));
    if (n_keys == 0) return;
    unit_.multiply({.a = q_.get() + first_row * depth_,
                    .a_stride = depth_,
                    .b = k_.get(),
                    .panel_stride = kBf16Columns * depth_,
                    .depth = depth_,
                    .n_panels = n_keys / kBf16Columns,
                    .y = s_.get(),
                    .y_stride = kTileKeys,
                    .accumulate = false});
    for (int64_t r = 0; r < unit_.rows; ++r) {
      const int64_t row = first_row + r;
      const float factor = SoftmaxRow(s_.get() + r * kTileKeys, n_keys, visible(row),
                                      max_.get() + row, sum_.get() + row, p_.get() + r * kTileKeys);
      if (factor != 1.0f) Scale(factor, o_.get() + row * depth_);
    }
    if (tile.finite_values) return AddValues(first_row, n_keys);
    AddValuesByRow(first_row, n_keys, visible);
  }

  HWY_INLINE void Scale(float factor, float* HWY_RESTRICT row) const {
    const DF df;
    for (int64_t i = 0; i < depth_; i += kLanes)
      hn::Store(hn::Mul(hn::Load(df, row + i), hn::Set(df, factor)), df, row + i);
  }

  // O += P V of a strip over the first n_keys keys of the tile.
  void AddValues(int64_t first_row, int64_t n_keys) {
    unit_.multiply({.a = p_.get(),
                    .a_stride = kTileKeys,
                    .b = v_.get(),
                    .panel_stride = kBf16Columns * kTileKeys,
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
  HWY_NOINLINE void AddValuesByRow(int64_t first_row, int64_t n_keys, const Visible& visible) {
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
  int64_t head_dim_;
  int64_t depth_;                                  // head_dim with zeros to whole tiles
  hwy::AlignedFreeUniquePtr<uint16_t[]> q_;        // [rows, depth]
  hwy::AlignedFreeUniquePtr<uint16_t[]> k_;        // panels [kTileKeys / 16][depth / 2][16][2]
  hwy::AlignedFreeUniquePtr<uint16_t[]> v_;        // panels [depth / 16][kTileKeys / 2][16][2]
  hwy::AlignedFreeUniquePtr<float[]> s_;           // [unit.rows, kTileKeys]
  hwy::AlignedFreeUniquePtr<uint16_t[]> p_;        // [unit.rows, kTileKeys]
  hwy::AlignedFreeUniquePtr<float[]> o_;           // [rows, depth]
  hwy::AlignedFreeUniquePtr<float[]> max_;         // [rows]
  hwy::AlignedFreeUniquePtr<float[]> sum_;         // [rows]
  hwy::AlignedFreeUniquePtr<float[]> row_;         // [2, depth], zeros past head_dim
  hwy::AlignedFreeUniquePtr<uint16_t[]> rounded_;  // [16, depth]
};

void RunBf16(const PrefillAttentionArgs& args, const Bf16Tile& unit, int threads) {
  const PrefillTasks tasks(args, kTaskRows, unit.rows, threads);
  const int64_t products = args.q.size() * (args.first_position + args.q.dim(0));
#pragma omp parallel num_threads(UsefulThreads(products, threads))
  {
    Worker worker(unit, tasks.n_rows(), args.q.dim(2));
    if (unit.begin != nullptr) unit.begin();
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tasks.size(); ++i) worker.Run(tasks[i]);
    if (unit.end != nullptr) unit.end();
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lexico::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(RunBf16);
HWY_EXPORT(SoftmaxRow);

void PrefillAttentionBf16(const PrefillAttentionArgs& args, const Bf16Tile& unit, int threads) {
  HWY_DYNAMIC_DISPATCH(RunBf16)(args, unit, threads);
}

float SoftmaxRowBf16(const float* scores, int64_t n, int64_t visible, float* max, float* sum,
                     uint16_t* weights) {
  return HWY_DYNAMIC_DISPATCH(SoftmaxRow)(scores, n, visible, max, sum, weights);
}

void PrefillAttention(const PrefillAttentionArgs& args, const Bf16Tile* unit, int threads) {
  if (unit != nullptr && args.allow_bf16) return PrefillAttentionBf16(args, *unit, threads);
  PrefillAttentionF32(args, threads);
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

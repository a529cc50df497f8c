// Rows that become the columns of a panel, for the keys of prefill attention: F32 numbers, or pairs
// of BF16 seen as one 32-bit lane.
//
// 4 x 4 blocks in registers; stores of single lanes took 18 % of a prefill's time (docs of
// prefill_attention_simd.cc).
//
// Included once per Highway target; not an ordinary header.
#if defined(LEXICO_KERNELS_CPU_PANEL_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LEXICO_KERNELS_CPU_PANEL_TRANSPOSE_INL_H_
#undef LEXICO_KERNELS_CPU_PANEL_TRANSPOSE_INL_H_
#else
#define LEXICO_KERNELS_CPU_PANEL_TRANSPOSE_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int64_t kTransposedRows = 16;

// to[i * kTransposedRows + j] = from[j * stride + i] for 4 rows j and 4 columns i.
HWY_INLINE void Transpose4x4(const float* HWY_RESTRICT from, int64_t stride,
                             float* HWY_RESTRICT to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t j = 0; j < 4; ++j)
    for (int64_t i = 0; i < 4; ++i) to[i * kTransposedRows + j] = from[j * stride + i];
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
  const auto store = [&](int64_t i, auto block) HWY_ATTR {
    hn::StoreU(hn::BitCast(d4, block), d4, to + i * kTransposedRows);
  };
  store(0, hn::InterleaveLower(d2, low01, low23));
  store(1, hn::InterleaveUpper(d2, low01, low23));
  store(2, hn::InterleaveLower(d2, high01, high23));
  store(3, hn::InterleaveUpper(d2, high01, high23));
#endif
}

// to [n_columns][16] from n_rows <= 16 rows of n_columns; columns of `to` past n_rows are 0.
HWY_INLINE void TransposePanel(const float* HWY_RESTRICT from, int64_t stride, int64_t n_rows,
                               int64_t n_columns, float* HWY_RESTRICT to) {
  for (int64_t j = 0; j < kTransposedRows; j += 4) {
    const int64_t n = std::clamp<int64_t>(n_rows - j, 0, 4);
    const float* rows = from + j * stride;
    int64_t i = 0;
    if (n == 4)
      for (; i + 4 <= n_columns; i += 4)
        Transpose4x4(rows + i, stride, to + i * kTransposedRows + j);
    for (; i < n_columns; ++i)
      for (int64_t r = 0; r < 4; ++r)
        to[i * kTransposedRows + j + r] = r < n ? rows[r * stride + i] : 0.0f;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lexico::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif

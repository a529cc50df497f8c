// The register tile that matrix products and prefill attention share.
//
//   acc[r][c] += sum_i a[r][i] * panel[i][c],   r < kRows, c < kPanelColumns
//
// A panel holds kPanelColumns = 16 columns of the right operand, row after row, so that one step
// reads 64 (F32) or 32 (BF16, F16) contiguous bytes. The terms are added in the order of i with one
// fused multiply-add each: an element's value depends on its row of `a` and its column of the panel
// and on nothing else, neither on kRows nor on how many panels are taken together. That is what
// makes MatMul invariant to the batch.
//
// Registers: AVX2 6 x 16 = 12 accumulators of 16; AVX-512 12 x 16 = 12 of 32 (enough to hide the
// latency of two FMA units, 4 cycles each), in prefill attention 12 x 32 = 24, which needs half of
// the loads of `a`; SSE and NEON 3 x 16.
//
// Included once per Highway target; not an ordinary header.
#if defined(LEXICO_KERNELS_CPU_MATMUL_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LEXICO_KERNELS_CPU_MATMUL_TILE_INL_H_
#undef LEXICO_KERNELS_CPU_MATMUL_TILE_INL_H_
#else
#define LEXICO_KERNELS_CPU_MATMUL_TILE_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kPanelColumns = 16;
using DF = hn::CappedTag<float, kPanelColumns>;
using DU32 = hn::RebindToUnsigned<DF>;
using VF = hn::Vec<DF>;
inline constexpr size_t kLanes = hn::MaxLanes(DF());
inline constexpr size_t kPanelVectors = kPanelColumns / kLanes;
inline constexpr size_t kTileRows = kLanes == 16 ? 12 : kLanes == 8 ? 6 : kLanes == 4 ? 3 : 1;

// Elements of a panel. BF16 panels are stored interleaved, column j beside column j + 8, so that a
// shift and a mask expand 16 of them: [0, 8, 1, 9, ..., 7, 15].
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

constexpr size_t Bf16PanelColumn(size_t place) { return place / 2 + (place % 2) * 8; }

HWY_INLINE void LoadPanelRow(const float* HWY_RESTRICT from, VF* HWY_RESTRICT to) {
#pragma GCC unroll 16
  for (size_t v = 0; v < kPanelVectors; ++v) to[v] = hn::LoadU(DF(), from + v * kLanes);
}

HWY_INLINE void LoadPanelRow(const Bf16* HWY_RESTRICT from, VF* HWY_RESTRICT to) {
  const DF df;
  const DU32 du32;
  const uint16_t* bits = &from->bits;
#if HWY_TARGET == HWY_SCALAR  // has no pairs of 16 bits
  for (size_t place = 0; place < kPanelColumns; ++place)
    to[Bf16PanelColumn(place)] =
        hn::BitCast(df, hn::Set(du32, static_cast<uint32_t>(bits[place]) << 16));
#elif HWY_TARGET <= HWY_AVX3  // one vector; its columns stay interleaved until InOrder
  const hn::Rebind<uint16_t, DF> du16;
  to[0] = hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du32, hn::LoadU(du16, bits))));
#else
  const hn::Repartition<uint16_t, DF> du16;
  const auto high = hn::Set(du32, 0xffff0000u);
#pragma GCC unroll 16
  for (size_t v = 0; v < kPanelVectors / 2; ++v) {
    const auto pair = hn::BitCast(du32, hn::LoadU(du16, bits + v * 2 * kLanes));
    to[v] = hn::BitCast(df, hn::ShiftLeft<16>(pair));
    to[v + kPanelVectors / 2] = hn::BitCast(df, hn::And(pair, high));
  }
#endif
}

HWY_INLINE void LoadPanelRow(const F16* HWY_RESTRICT from, VF* HWY_RESTRICT to) {
  const hn::Rebind<hwy::float16_t, DF> df16;
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(from);
#pragma GCC unroll 16
  for (size_t v = 0; v < kPanelVectors; ++v)
    to[v] = hn::PromoteTo(DF(), hn::LoadU(df16, halves + v * kLanes));
}

// Undoes what LoadPanelRow left of the interleaving.
template <typename Element>
HWY_INLINE VF InOrder(VF v) {
  if constexpr (std::is_same_v<Element, Bf16> && kPanelVectors == 1) {
    alignas(64) static constexpr int32_t kIndex[16] = {0, 2, 4, 6, 8, 10, 12, 14,
                                                       1, 3, 5, 7, 9, 11, 13, 15};
    return hn::TableLookupLanes(v, hn::SetTableIndices(DF(), kIndex));
  }
  return v;
}

// `start(r, p, v)` gives the first value of the accumulator of row r, panel p, vector v;
// `finish(r, p, v, value)` takes the last. Row r of `a` is a[r * a_row_stride + i * a_step].
// Panel p begins panel_stride elements after panel p - 1.
template <size_t kRows, size_t kPanels, typename Element, class Start, class Finish>
HWY_INLINE void TileProduct(const float* HWY_RESTRICT a, size_t a_row_stride, size_t a_step,
                            const Element* HWY_RESTRICT panel, size_t panel_stride, size_t n,
                            const Start& start, const Finish& finish) {
  const DF df;
  VF acc[kRows][kPanels][kPanelVectors];
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (size_t p = 0; p < kPanels; ++p)
#pragma GCC unroll 16
      for (size_t v = 0; v < kPanelVectors; ++v) acc[r][p][v] = start(r, p, v);
  for (size_t i = 0; i < n; ++i) {
    VF b[kPanels][kPanelVectors];
#pragma GCC unroll 16
    for (size_t p = 0; p < kPanels; ++p)
      LoadPanelRow(panel + p * panel_stride + i * kPanelColumns, b[p]);
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r) {
      const VF x = hn::Set(df, a[r * a_row_stride + i * a_step]);
#pragma GCC unroll 16
      for (size_t p = 0; p < kPanels; ++p)
#pragma GCC unroll 16
        for (size_t v = 0; v < kPanelVectors; ++v)
          acc[r][p][v] = hn::MulAdd(x, b[p][v], acc[r][p][v]);
    }
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (size_t p = 0; p < kPanels; ++p)
#pragma GCC unroll 16
      for (size_t v = 0; v < kPanelVectors; ++v) finish(r, p, v, InOrder<Element>(acc[r][p][v]));
}

}  // namespace HWY_NAMESPACE
}  // namespace lexico::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif

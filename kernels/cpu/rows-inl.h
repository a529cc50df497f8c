// Vector arithmetic on dictionary rows, for every instruction set. Included once per target by
// files built with Highway's foreach_target.
//
// Rows are `stride` floats long, a multiple of 16, zero-padded (dictionary.h), so no function here
// has a remainder loop. The order of additions is fixed: equal inputs give equal bits.
#if defined(LEXICO_KERNELS_CPU_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LEXICO_KERNELS_CPU_ROWS_INL_H_
#undef LEXICO_KERNELS_CPU_ROWS_INL_H_
#else
#define LEXICO_KERNELS_CPU_ROWS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, so that a row of 16 floats is a whole number of vectors.
using RowTag = hn::CappedTag<float, 16>;

// out = init + sum_j c[j] * row(atoms[j]) for kVectors vectors at the given column.
template <int kVectors>
HWY_INLINE void CombineColumns(const float* HWY_RESTRICT rows, size_t stride,
                               const uint16_t* HWY_RESTRICT atoms, const float* HWY_RESTRICT c,
                               int n, const float* init, float* out) {
  const RowTag d;
  constexpr size_t kLanes = hn::MaxLanes(RowTag());
  hn::Vec<RowTag> sum[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    sum[v] = init == nullptr ? hn::Zero(d) : hn::LoadU(d, init + v * kLanes);
  }
  for (int j = 0; j < n; ++j) {
    const float* HWY_RESTRICT row = rows + atoms[j] * stride;
    const auto factor = hn::Set(d, c[j]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sum[v] = hn::MulAdd(factor, hn::LoadU(d, row + v * kLanes), sum[v]);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[v], d, out + v * kLanes);
}

// out = init + sum_j c[j] * row(atoms[j]), [stride]; a null init is 0; out may be init. Terms are
// added in the order of j.
HWY_INLINE void CombineRows(const float* rows, size_t stride, const uint16_t* atoms, const float* c,
                            int n, const float* init, float* out) {
  constexpr size_t kLanes = hn::MaxLanes(RowTag());
  size_t i = 0;
  for (; i + 8 * kLanes <= stride; i += 8 * kLanes) {
    CombineColumns<8>(rows + i, stride, atoms, c, n, init == nullptr ? nullptr : init + i, out + i);
  }
  for (; i < stride; i += kLanes) {
    CombineColumns<1>(rows + i, stride, atoms, c, n, init == nullptr ? nullptr : init + i, out + i);
  }
}

// <a, b> over [stride] in FP32.
HWY_INLINE float Dot(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, size_t stride) {
  const hn::CappedTag<float, 8> d;
  constexpr size_t kLanes = hn::MaxLanes(hn::CappedTag<float, 8>());
  auto s0 = hn::Zero(d);
  auto s1 = hn::Zero(d);
  for (size_t i = 0; i < stride; i += 2 * kLanes) {
    s0 = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), s0);
    s1 = hn::MulAdd(hn::LoadU(d, a + i + kLanes), hn::LoadU(d, b + i + kLanes), s1);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1)));
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LEXICO_KERNELS_CPU_ROWS_INL_H_

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

// products[r] = <a, b[r]> over [stride] in FP32, each the same bits whatever kRows is: blocks of 8
// products (4 on SSE) are added up in two sums, the even and the odd ones, which are the halves of
// one register on AVX-512.
template <int kRows>
HWY_INLINE void DotMany(const float* HWY_RESTRICT a, const float* const* HWY_RESTRICT b,
                        size_t stride, float* HWY_RESTRICT products) {
  const hn::CappedTag<float, 8> d;
#if HWY_CAP_GE512
  const hn::CappedTag<float, 16> d_two;
  hn::Vec<decltype(d_two)> sum[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) sum[r] = hn::Zero(d_two);
  for (size_t i = 0; i < stride; i += 16) {
    const auto factor = hn::LoadU(d_two, a + i);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      sum[r] = hn::MulAdd(factor, hn::LoadU(d_two, b[r] + i), sum[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const auto both = hn::Add(hn::LowerHalf(d, sum[r]), hn::UpperHalf(d, sum[r]));
    products[r] = hn::GetLane(hn::SumOfLanes(d, both));
  }
#else
  constexpr size_t kLanes = hn::MaxLanes(hn::CappedTag<float, 8>());
  for (int r = 0; r < kRows; ++r) {
    auto even = hn::Zero(d);
    auto odd = hn::Zero(d);
    for (size_t i = 0; i < stride; i += 2 * kLanes) {
      even = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b[r] + i), even);
      odd = hn::MulAdd(hn::LoadU(d, a + i + kLanes), hn::LoadU(d, b[r] + i + kLanes), odd);
    }
    products[r] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  }
#endif
}

// <a, b> over [stride] in FP32.
HWY_INLINE float Dot(const float* a, const float* b, size_t stride) {
  float product;
  DotMany<1>(a, &b, stride, &product);
  return product;
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LEXICO_KERNELS_CPU_ROWS_INL_H_

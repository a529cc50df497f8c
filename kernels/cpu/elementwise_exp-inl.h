// exp on vectors of F32, for arguments that are not positive (softmax, sigmoid).
//
// exp(x) = 2^n * 2^f with n = round(x * log2(e)), |f| <= 1/2. 2^f is a polynomial of degree 6 with
// constant term 1, so that exp(0) is exactly 1: fitted by iteratively reweighted least squares to
// the relative error, which is 1.6e-8 on [-1/2, 1/2] with F32 coefficients. With F32 arithmetic the
// result is within kExpUlps * 2^-23 relative, tested in tests/kernels/elementwise_test.cc. Results
// below the smallest normal number are 0; -infinity gives 0; NaN stays NaN.
//
// Included once per Highway target; not an ordinary header.
#if defined(LEXICO_KERNELS_CPU_ELEMENTWISE_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LEXICO_KERNELS_CPU_ELEMENTWISE_EXP_INL_H_
#undef LEXICO_KERNELS_CPU_ELEMENTWISE_EXP_INL_H_
#else
#define LEXICO_KERNELS_CPU_ELEMENTWISE_EXP_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr float kLog2E = 1.44269504088896341f;
// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
inline constexpr float kRoundingBias = 12582912.0f;
inline constexpr float kExp2Min = -126.0f;  // 2^-126 is the smallest normal number

// 2^n * 2^f: `biased` is n + kRoundingBias, f in [-1/2, 1/2]; 0 where n_and_f < kExp2Min.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2Join(D d, V biased, V f, V n_and_f) {
  const hn::RebindToUnsigned<D> du;
  V p = hn::Set(d, 1.5353362e-4f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.3398875e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.618437e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.5503324e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.4022648e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.931472e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  // A product, not an addition to the exponent field: the latter could turn a NaN into a number.
  const V power =
      hn::BitCast(d, hn::Add(hn::ShiftLeft<23>(hn::BitCast(du, biased)), hn::Set(du, 0x3f800000u)));
  return hn::IfThenZeroElse(hn::Lt(n_and_f, hn::Set(d, kExp2Min)), hn::Mul(p, power));
}

// 2^x, x <= 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2NonPositive(D d, V x) {
  const V bias = hn::Set(d, kRoundingBias);
  const V biased = hn::Add(x, bias);
  return Exp2Join(d, biased, hn::Sub(x, hn::Sub(biased, bias)), x);
}

// e^x, x <= 0. x * log2(e) is not formed in one rounding, which would cost |x| * 6e-8: the integer
// part is taken off in two steps (Cody and Waite; ln 2 = 0.693359375 - 2.12194440e-4).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpNonPositive(D d, V x) {
  const V bias = hn::Set(d, kRoundingBias);
  const V log2e = hn::Set(d, kLog2E);
  const V x2 = hn::Mul(x, log2e);
  const V biased = hn::Add(x2, bias);
  const V n = hn::Sub(biased, bias);
  const V r =
      hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x));
  return Exp2Join(d, biased, hn::Mul(r, log2e), x2);
}

}  // namespace HWY_NAMESPACE
}  // namespace lexico::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif

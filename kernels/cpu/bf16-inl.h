// Rounding of F32 vectors to BF16, the same bits as FloatToBf16 (convert.h).
//
// Included once per Highway target; not an ordinary header.
#if defined(LEXICO_KERNELS_CPU_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LEXICO_KERNELS_CPU_BF16_INL_H_
#undef LEXICO_KERNELS_CPU_BF16_INL_H_
#else
#define LEXICO_KERNELS_CPU_BF16_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// To nearest, ties to even; the bits in the lower half of each 32-bit lane. NaN stays NaN.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> RoundToBf16(D d, hn::Vec<D> value) {
  const hn::RebindToUnsigned<D> du32;
  const auto bits = hn::BitCast(du32, value);
  const auto high = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(high, hn::Set(du32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du32, 0x7fff))));
  const auto quiet = hn::Or(high, hn::Set(du32, 0x40));
  return hn::IfThenElse(hn::RebindMask(du32, hn::IsNaN(value)), quiet, rounded);
}

// Stores the lower halves of the lanes.
template <class D>
HWY_INLINE void StoreHalves(D du32, hn::Vec<D> bits, uint16_t* HWY_RESTRICT to) {
  const hn::Rebind<uint16_t, D> du16;
  hn::StoreU(hn::DemoteTo(du16, hn::BitCast(hn::RebindToSigned<D>(), bits)), du16, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace lexico::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif

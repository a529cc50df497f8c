// Codes as vectors read them, for every instruction set. Included once per target by files built
// with Highway's foreach_target.
#if defined(LEXICO_KERNELS_CPU_E4M3_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LEXICO_KERNELS_CPU_E4M3_INL_H_
#undef LEXICO_KERNELS_CPU_E4M3_INL_H_
#else
#define LEXICO_KERNELS_CPU_E4M3_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/code_view.h"
#include "kernels/cpu/e4m3.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// n codes to FP32, exact. An E4M3 code shifted left by 7 (its sign by 8) is the FP16 number 2^-8
// times as large, subnormals included, so the hardware's FP16 conversion does the work; FP32
// tricks would meet subnormal FP32 numbers, which cost a microcode assist on some CPUs.
HWY_INLINE void DecodeE4m3(const uint8_t* HWY_RESTRICT codes, int n, float* HWY_RESTRICT values) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> dh;
  const hn::Rebind<uint16_t, decltype(d)> du16;
  const hn::Rebind<uint8_t, decltype(d)> du8;
  constexpr int kLanes = hn::MaxLanes(hn::CappedTag<float, 16>());
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const auto bits = hn::PromoteTo(du16, hn::LoadU(du8, codes + i));
    const auto sign = hn::ShiftLeft<8>(hn::And(bits, hn::Set(du16, 0x80)));
    const auto magnitude = hn::And(bits, hn::Set(du16, 0x7f));
    const auto is_nan = hn::Eq(magnitude, hn::Set(du16, 0x7f));
    const auto half = hn::IfThenElse(is_nan, hn::Set(du16, 0x7e00), hn::ShiftLeft<7>(magnitude));
    const auto value = hn::PromoteTo(d, hn::BitCast(dh, hn::Or(sign, half)));
    hn::StoreU(hn::Mul(value, hn::Set(d, 256.0f)), d, values + i);
  }
  const auto& table = E4m3Values();
  for (; i < n; ++i) values[i] = table[codes[i]];
}

// Asks for one head's codes of a page that will be read soon: pages lie anywhere in the arena, so
// the hardware prefetcher cannot guess the next one.
HWY_INLINE void PrefetchCodes(const uint8_t* page, const PageLayout& layout, bool value, int head) {
  const uint8_t* block = page + layout.head_offset(value, head);
  for (size_t i = 0; i < layout.head_bytes(value); i += 64) hwy::Prefetch(block + i);
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LEXICO_KERNELS_CPU_E4M3_INL_H_

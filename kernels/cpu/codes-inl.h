// The codes of a page as vectors of numbers, whatever their form, for every instruction set.
// Included once per target by files built with Highway's foreach_target.
#if defined(LEXICO_KERNELS_CPU_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LEXICO_KERNELS_CPU_CODES_INL_H_
#undef LEXICO_KERNELS_CPU_CODES_INL_H_
#else
#define LEXICO_KERNELS_CPU_CODES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/api/residual.h"
#include "kernels/cpu/code_view.h"
#include "kernels/cpu/e4m3-inl.h"
#include "proto/base/limits.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors past the end of a buffer that the loops below may write.
inline constexpr int kCodesPadding = 16;

// from[0 .. n - 1], or as many as there are lanes; the rest is 0.
template <class D>
HWY_INLINE hn::Vec<D> LoadSome(D d, const uint16_t* HWY_RESTRICT from, int n) {
  constexpr int kLanes = hn::MaxLanes(D());
  if (n >= kLanes) return hn::LoadU(d, from);
  uint16_t some[kLanes] = {};
  std::memcpy(some, from, n * sizeof(uint16_t));
  return hn::LoadU(d, some);
}

// n F16 numbers to FP32. `to` has room for kCodesPadding more.
HWY_INLINE void WidenHalves(const uint16_t* HWY_RESTRICT from, int n, float* HWY_RESTRICT to) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> dh;
  const hn::Rebind<uint16_t, decltype(d)> du16;
  constexpr int kLanes = hn::MaxLanes(hn::CappedTag<float, 16>());
  for (int i = 0; i < n; i += kLanes) {
    const auto bits = LoadSome(du16, from + i, n - i);
    hn::StoreU(hn::PromoteTo(d, hn::BitCast(dh, bits)), d, to + i);
  }
}

// n packed words to indices and whole numbers -8 .. 7. Both have room for kCodesPadding more.
HWY_INLINE void Unpack(const uint16_t* HWY_RESTRICT words, int n, uint16_t* HWY_RESTRICT atoms,
                       float* HWY_RESTRICT numbers) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<uint16_t, decltype(d)> du16;
  const hn::Rebind<int16_t, decltype(d)> di16;
  const hn::Rebind<int32_t, decltype(d)> di32;
  constexpr int kLanes = hn::MaxLanes(hn::CappedTag<float, 16>());
  for (int i = 0; i < n; i += kLanes) {
    const auto word = LoadSome(du16, words + i, n - i);
    hn::StoreU(hn::ShiftRight<4>(word), du16, atoms + i);
    const auto number = hn::ShiftRight<12>(hn::BitCast(di16, hn::ShiftLeft<12>(word)));
    hn::StoreU(hn::ConvertTo(d, hn::PromoteTo(di32, number)), d, numbers + i);
  }
}

// The atoms of one head of a page, kTokens tokens at a time.
template <int kTokens>
class PageAtoms {
 public:
  PageAtoms(const CodeView& codes, const VectorCode& code, int page_tokens)
      : codes_(codes), sparsity_(code.sparsity), packed_(code.is_packed()) {
    if (packed_) WidenHalves(codes.scales, page_tokens, scales_);
  }

  // Tokens t .. t + n - 1, n at most kTokens: atoms() and numbers() are [n, sparsity] afterwards,
  // and a coefficient is scale(t) * its number.
  HWY_INLINE void Read(int t, int n) {
    const uint16_t* stored = codes_.atoms + static_cast<size_t>(t) * sparsity_;
    if (packed_) {
      Unpack(stored, n * sparsity_, unpacked_, numbers_);
      atoms_ = unpacked_;
    } else {
      DecodeE4m3(codes_.coefs + static_cast<size_t>(t) * sparsity_, n * sparsity_, numbers_);
      atoms_ = stored;
    }
  }
  const uint16_t* atoms() const { return atoms_; }
  const float* numbers() const { return numbers_; }
  bool has_scales() const { return packed_; }
  float scale(int t) const { return packed_ ? scales_[t] : 1.0f; }

 private:
  const CodeView codes_;
  const int sparsity_;
  const bool packed_;
  const uint16_t* atoms_ = nullptr;
  uint16_t unpacked_[kTokens * base::kSparsityMax + kCodesPadding];
  float numbers_[kTokens * base::kSparsityMax + kCodesPadding];
  float scales_[base::kPageTokensMax + kCodesPadding];
};

// Bits i .. i + Lanes - 1 of a plane as a mask.
template <class D>
HWY_INLINE hn::Mask<D> PlaneMask(D d, const uint8_t* HWY_RESTRICT plane, size_t i) {
  constexpr size_t kLanes = hn::MaxLanes(D());
  uint64_t bits = 0;  // LoadMaskBits may read 8 bytes
  std::memcpy(&bits, plane + i / 8, (kLanes + 7) / 8);
  if constexpr (kLanes < 8) bits >>= i % 8;
  return hn::LoadMaskBits(d, reinterpret_cast<const uint8_t*>(&bits));
}

// Levels i .. i + Lanes - 1 of a residual of kBits bits; `factors` [kLevelTermsMax].
template <int kBits, class D>
HWY_INLINE hn::Vec<D> Levels(D d, const uint8_t* HWY_RESTRICT residual, size_t plane_bytes,
                             size_t i, const float* HWY_RESTRICT factors) {
  const auto signs = [&](hn::Mask<D> mask, int p) {
    const auto factor = hn::Set(d, factors[p]);
    return hn::IfThenElse(mask, factor, hn::Neg(factor));
  };
  const auto first = PlaneMask(d, residual, i);
  auto level = signs(first, 0);
  if constexpr (kBits >= 2) {
    const auto second = PlaneMask(d, residual + plane_bytes, i);
    level = hn::Add(level, signs(second, 1));
    if constexpr (kBits == 3) {
      const auto third = PlaneMask(d, residual + 2 * plane_bytes, i);
      level = hn::Add(level, signs(third, 2));
      level = hn::Add(level, signs(hn::Xor(hn::Xor(first, second), third), 3));
    }
  }
  return level;
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LEXICO_KERNELS_CPU_CODES_INL_H_

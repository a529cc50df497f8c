// Vectors of 16-bit scores, for every instruction set. Included once per target by files built with
// Highway's foreach_target.
#if defined(LEXICO_KERNELS_CPU_OMP_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LEXICO_KERNELS_CPU_OMP_SCORES_INL_H_
#undef LEXICO_KERNELS_CPU_OMP_SCORES_INL_H_
#else
#define LEXICO_KERNELS_CPU_OMP_SCORES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 32 lanes, so that a chunk of 128 atoms is a whole number of vectors.
using ScoreTag = hn::CappedTag<int16_t, 32>;
inline constexpr size_t kScoreLanes = hn::MaxLanes(ScoreTag());

HWY_INLINE int LargestLane(hn::Vec<ScoreTag> v) {
#if HWY_TARGET == HWY_SCALAR
  return hn::GetLane(v);
#else
  const hn::Repartition<int32_t, ScoreTag> d;
  const auto pairs = hn::BitCast(d, v);
  const auto odd = hn::ShiftRight<16>(pairs);
  const auto even = hn::ShiftRight<16>(hn::ShiftLeft<16>(pairs));
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(odd, even)));
#endif
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LEXICO_KERNELS_CPU_OMP_SCORES_INL_H_

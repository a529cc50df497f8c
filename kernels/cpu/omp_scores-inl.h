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

// At most 32 lanes, so that a group of 128 atoms is a whole number of vectors.
using ScoreTag = hn::CappedTag<int16_t, 32>;
inline constexpr size_t kScoreLanes = hn::MaxLanes(ScoreTag());

// Maxima (omp_scores.h) of four vectors of scores.
HWY_INLINE void StoreMaxima(hn::Vec<ScoreTag> a, hn::Vec<ScoreTag> b, hn::Vec<ScoreTag> c,
                            hn::Vec<ScoreTag> e, int16_t* HWY_RESTRICT maxima) {
  const ScoreTag d;
  hn::StoreU(hn::Max(hn::Max(hn::Abs(a), hn::Abs(b)), hn::Max(hn::Abs(c), hn::Abs(e))), d, maxima);
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LEXICO_KERNELS_CPU_OMP_SCORES_INL_H_

#include "kernels/cpu/omp_scores.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "proto/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/omp_scores.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/omp_scores-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {

void FindMaximaSimd(size_t n_groups, const Scores& scores) {
  const ScoreTag d;
  for (size_t g = 0; g < n_groups; ++g) {
    for (size_t a = 0; a < kGroupAtoms; a += 4 * kScoreLanes) {
      const int16_t* from = scores.group(g) + a;
      StoreMaxima(hn::LoadU(d, from), hn::LoadU(d, from + kScoreLanes),
                  hn::LoadU(d, from + 2 * kScoreLanes), hn::LoadU(d, from + 3 * kScoreLanes),
                  scores.group_maxima(g) + a / 4);
    }
  }
}

// The largest maximum of a group in each lane.
HWY_INLINE hn::Vec<ScoreTag> GroupLargest(const Scores& scores, size_t g) {
  const ScoreTag d;
  const int16_t* maxima = scores.group_maxima(g);
  auto largest = hn::LoadU(d, maxima);
  for (size_t lane = kScoreLanes; lane < kGroupMaxima; lane += kScoreLanes) {
    largest = hn::Max(largest, hn::LoadU(d, maxima + lane));
  }
  return largest;
}

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

// Of an array over atoms, which ends at a whole chunk.
inline constexpr int kGroupsMax = (base::kAtomsMax + kChunkAtoms - 1) / kChunkAtoms * 2;
static_assert(kChunkAtoms == 2 * kGroupAtoms);

// A bit for each of a vector of scores whose magnitude is above `below`.
HWY_INLINE uint32_t VectorBits(const int16_t* HWY_RESTRICT values, hn::Vec<ScoreTag> below) {
  const ScoreTag d;
  const auto above = hn::Gt(hn::Abs(hn::LoadU(d, values)), below);
  if constexpr (kScoreLanes < 8) {
    return hn::AllFalse(d, above) ? 0 : 1;
  } else {
    // As many bytes are read as were written: the load need not wait for the store to reach L1.
    using Word = std::conditional_t<kScoreLanes == 8, uint8_t,
                                    std::conditional_t<kScoreLanes == 16, uint16_t, uint32_t>>;
    uint8_t bytes[sizeof(Word)];
    hn::StoreMaskBits(d, above, bytes);
    return std::bit_cast<Word>(bytes);
  }
}

// Groups with a candidate first, then vectors with one, then the bits: candidates lie
// anywhere, so a branch on each would be mispredicted for every one of them.
Candidates FindCandidatesSimd(const Dictionary& dictionary, const Scores& scores,
                              uint16_t* HWY_RESTRICT atoms) {
  const ScoreTag d;
  const size_t n_all = GroupsOf(dictionary);
  auto largest = hn::Zero(d);
  for (size_t g = 0; g < n_all; ++g) largest = hn::Max(largest, GroupLargest(scores, g));
  Candidates found;
  found.largest = LargestLane(largest);
  found.least = std::max(0, static_cast<int>(std::floor(found.largest - 2 * scores.error)));
  const auto below = hn::Set(d, static_cast<int16_t>(found.least - 1));
  int groups[kGroupsMax + 1];
  int n_groups = 0;
  for (size_t g = 0; g < n_all; ++g) {
    groups[n_groups] = static_cast<int>(g);
    n_groups += hn::AllFalse(d, hn::Gt(GroupLargest(scores, g), below)) ? 0 : 1;
  }
  struct {
    uint32_t bits;
    int first;
  } words[kGroupsMax * kGroupAtoms / kScoreLanes + 1];
  int n_words = 0;
  for (int g = 0; g < n_groups; ++g) {
    const int16_t* values = scores.group(groups[g]);
#pragma GCC unroll 4
    for (size_t i = 0; i < kGroupAtoms; i += kScoreLanes) {
      words[n_words] = {VectorBits(values + i, below),
                        groups[g] * kGroupAtoms + static_cast<int>(i)};
      n_words += words[n_words].bits != 0 ? 1 : 0;
    }
  }
  for (int w = 0; w < n_words; ++w) {
    uint32_t bits = words[w].bits;
    do {
      const int atom = words[w].first + std::countr_zero(bits);
      atoms[found.n] = static_cast<uint16_t>(atom);
      found.n += atom < dictionary.n_atoms() ? 1 : 0;
      bits &= bits - 1;
    } while (bits != 0);
  }
  return found;
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(FindMaximaSimd);
HWY_EXPORT(FindCandidatesSimd);

void FindMaxima(const Dictionary& dictionary, const Scores& scores) {
  HWY_DYNAMIC_DISPATCH(FindMaximaSimd)(GroupsOf(dictionary), scores);
}

Candidates FindCandidates(const Dictionary& dictionary, const Scores& scores, uint16_t* atoms) {
  return HWY_DYNAMIC_DISPATCH(FindCandidatesSimd)(dictionary, scores, atoms);
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

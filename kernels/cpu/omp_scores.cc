#include "kernels/cpu/omp_scores.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <vector>

#include "proto/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/omp_scores.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/omp_scores-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {

int LargestMagnitudeSimd(const Dictionary& dictionary, const int16_t* values) {
  const ScoreTag d;
  auto largest = hn::Zero(d);
  for (int a = 0; a < dictionary.padded_atoms(); a += kScoreLanes) {
    largest = hn::Max(largest, hn::Abs(hn::LoadU(d, values + a)));
  }
  return LargestLane(largest);
}

// A bit for each atom first, then the words with a bit, then the bits: candidates lie anywhere, so
// a branch on each vector of scores would be mispredicted for every one of them.
void CollectCandidatesSimd(const Dictionary& dictionary, const int16_t* values, int least,
                           std::vector<uint16_t>& candidates) {
  const ScoreTag d;
  const auto below = hn::Set(d, static_cast<int16_t>(least - 1));
  uint64_t words[base::kAtomsMax / 64];
  const int n_words = dictionary.padded_atoms() / 64;
  if constexpr (kScoreLanes < 8) {
    std::fill_n(words, n_words, uint64_t{0});
    for (int a = 0; a < dictionary.padded_atoms(); ++a) {
      words[a / 64] |= static_cast<uint64_t>(std::abs(values[a]) >= least) << (a % 64);
    }
  } else {
    auto* bytes = reinterpret_cast<uint8_t*>(words);
    for (int a = 0; a < dictionary.padded_atoms(); a += kScoreLanes, bytes += kScoreLanes / 8) {
      hn::StoreMaskBits(d, hn::Gt(hn::Abs(hn::LoadU(d, values + a)), below), bytes);
    }
  }
  int places[base::kAtomsMax / 64];
  int n_places = 0;
  for (int w = 0; w < n_words; ++w) {
    places[n_places] = w;
    n_places += words[w] != 0 ? 1 : 0;
  }
  for (int i = 0; i < n_places; ++i) {
    for (uint64_t bits = words[places[i]]; bits != 0; bits &= bits - 1) {
      const int atom = places[i] * 64 + std::countr_zero(bits);
      if (atom < dictionary.n_atoms()) candidates.push_back(static_cast<uint16_t>(atom));
    }
  }
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(LargestMagnitudeSimd);
HWY_EXPORT(CollectCandidatesSimd);

int LargestMagnitude(const Dictionary& dictionary, const int16_t* values) {
  return HWY_DYNAMIC_DISPATCH(LargestMagnitudeSimd)(dictionary, values);
}

void CollectCandidates(const Dictionary& dictionary, const int16_t* values, int least,
                       std::vector<uint16_t>& candidates) {
  HWY_DYNAMIC_DISPATCH(CollectCandidatesSimd)(dictionary, values, least, candidates);
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

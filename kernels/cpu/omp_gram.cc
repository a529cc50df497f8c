#include "kernels/cpu/omp_gram.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/omp_project.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/omp_gram.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/omp_scores-inl.h"
#include "kernels/cpu/panel_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {

inline constexpr size_t kHalf = kChunkAtoms / 2;
// Words read together: their sums are 8 registers of 16 on AVX2.
inline constexpr size_t kWordVectors = 4;
static_assert(kHalf % (kWordVectors * kScoreLanes) == 0);

HWY_INLINE hn::Vec<ScoreTag> FactorOf(const GramTerm& term) {
  const ScoreTag d;
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(d, static_cast<int16_t>(term.factors));
#else
  return hn::BitCast(d, hn::Set(hn::Repartition<int32_t, ScoreTag>(), term.factors));
#endif
}

void GramScoresSimd(const Dictionary& dictionary, const Scores& base, const GramTerm* terms,
                    int n_terms, int16_t* HWY_RESTRICT values, int16_t* HWY_RESTRICT maxima) {
  const ScoreTag d;
  const size_t n_words = dictionary.padded_atoms() / 2;
  static_assert(kHalf == kGroupAtoms);
  const size_t base_half = static_cast<size_t>(kGroupAtoms) * base.interleaved;
  for (size_t w = 0; w < n_words; w += kWordVectors * kScoreLanes) {
    const size_t first = w / kHalf * kChunkAtoms + w % kHalf;
    const int16_t* base_low = base.group(first / kGroupAtoms) + first % kGroupAtoms;
    hn::Vec<ScoreTag> low[kWordVectors];
    hn::Vec<ScoreTag> high[kWordVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kWordVectors; ++v) {
      low[v] = hn::LoadU(d, base_low + v * kScoreLanes);
      high[v] = hn::LoadU(d, base_low + base_half + v * kScoreLanes);
    }
    for (int j = 0; j < n_terms; ++j) {
      const int16_t* HWY_RESTRICT row = terms[j].row + w;
      const auto factor = FactorOf(terms[j]);
#pragma GCC unroll 4
      for (size_t v = 0; v < kWordVectors; ++v) {
        auto word = hn::LoadU(d, row + v * kScoreLanes);
        KeepInRegister(word);
        low[v] = hn::Sub(low[v], hn::MulFixedPoint15(word, factor));
        high[v] = hn::Sub(high[v], hn::MulFixedPoint15(hn::ShiftLeft<8>(word), factor));
      }
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < kWordVectors; ++v) {
      hn::StoreU(low[v], d, values + first + v * kScoreLanes);
      hn::StoreU(high[v], d, values + first + kHalf + v * kScoreLanes);
    }
    StoreMaxima(low[0], low[1], low[2], low[3], maxima + first / 4);
    StoreMaxima(high[0], high[1], high[2], high[3], maxima + (first + kHalf) / 4);
  }
}

// Words of one row from its signed 16-bit scores [padded_atoms] in units of 1 / kScoreOne.
void PackGramRow(const int16_t* HWY_RESTRICT scores, size_t n_words, int16_t* HWY_RESTRICT words) {
  const ScoreTag d;
  // As fixed-point factors of 15 bits: to bytes, and what two scores exceed kGramOne by.
  const auto to_byte = hn::Set(d, static_cast<int16_t>(127 / kScoreOne * 32768 + 0.5f));
  const auto excess =
      hn::Set(d, static_cast<int16_t>((2 * kScoreOne - kGramOne) / kScoreOne * 32768 + 0.5f));
  for (size_t w = 0; w < n_words; w += kScoreLanes) {
    const size_t first = w / kHalf * kChunkAtoms + w % kHalf;
    const auto a = hn::LoadU(d, scores + first);
    const auto b = hn::LoadU(d, scores + first + kHalf);
    const auto low = hn::And(hn::MulFixedPoint15(b, to_byte), hn::Set(d, 0xff));
    const auto entry = hn::SaturatedAdd(hn::Sub(a, hn::MulFixedPoint15(a, excess)), a);
    const auto rounded = hn::SaturatedAdd(hn::SaturatedSub(entry, low), hn::Set(d, 128));
    const auto high = hn::AndNot(hn::Set(d, 0xff), rounded);
    hn::StoreU(hn::Or(high, low), d, words + w);
  }
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(GramScoresSimd);
HWY_EXPORT(PackGramRow);

float GramError(int head_dim) {
  // 128 and 3 for rounding on the way to a word; the products in units of 1 / kScoreOne.
  return 131 / kGramOne + ProjectionErrorBound(head_dim) / kScoreOne;
}

void GramScores(const Dictionary& dictionary, const Scores& base, const GramTerm* terms,
                int n_terms, const Scores& scores) {
  HWY_DYNAMIC_DISPATCH(GramScoresSimd)
  (dictionary, base, terms, n_terms, scores.values, scores.maxima);
}

void BuildGram(const Dictionary& dictionary, int threads, int16_t* gram) {
  constexpr int kRows = 24;
  const int n_atoms = dictionary.n_atoms();
  const size_t stride = dictionary.padded_atoms();
  const size_t vector = static_cast<size_t>(dictionary.n_pairs()) * 2;
#pragma omp parallel num_threads(threads)
  {
    std::vector<int16_t> vectors(kRows * vector);
    std::vector<int16_t> scores(kRows * stride);
#pragma omp for schedule(dynamic)
    for (int begin = 0; begin < n_atoms; begin += kRows) {
      const int n_rows = std::min(kRows, n_atoms - begin);
      for (int r = 0; r < n_rows; ++r) {
        Quantize(dictionary, dictionary.row(begin + r), 1, vectors.data() + r * vector);
      }
      ProjectBlock(dictionary, vectors.data(), n_rows, scores.data());
      for (int r = 0; r < n_rows; ++r) {
        HWY_DYNAMIC_DISPATCH(PackGramRow)
        (scores.data() + r * stride, stride / 2, gram + (begin + r) * (stride / 2));
      }
    }
  }
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

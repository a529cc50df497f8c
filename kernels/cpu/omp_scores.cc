#include "kernels/cpu/omp_scores.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "proto/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/omp_scores.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/panel_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using ScoreTag = hn::CappedTag<int16_t, kMaximaPerChunk>;
inline constexpr size_t kScoreLanes = hn::MaxLanes(ScoreTag());
// Sums of GramScores held in registers: 8 of 16 on AVX2.
inline constexpr size_t kScoreVectors = std::min<size_t>(8, kChunkAtoms / kScoreLanes);

#if HWY_TARGET == HWY_SCALAR  // one lane holds no pair

inline constexpr size_t kTileAtoms = kPanelAtoms;
inline constexpr int kTileRows = 1;

template <int kRows>
HWY_INLINE void ProjectTile(const int16_t* HWY_RESTRICT pairs, const int16_t* HWY_RESTRICT vector,
                            int n_pairs, int16_t* HWY_RESTRICT scores, size_t scores_stride) {
  for (int j = 0; j < kPanelAtoms; ++j) {
    int32_t sum = 1 << 15;
    for (int i = 0; i < n_pairs; ++i) {
      const int16_t* pair = pairs + (i * kPanelAtoms + j) * 2;
      sum += pair[0] * vector[2 * i] + pair[1] * vector[2 * i + 1];
    }
    scores[j] = static_cast<int16_t>(sum >> 16);
  }
}

#else

using WideTag = hn::CappedTag<int32_t, 16>;
using PairTag = hn::Repartition<int16_t, WideTag>;
inline constexpr size_t kWideLanes = hn::MaxLanes(WideTag());
// A tile is 6 vectors times the atoms of 2 registers: 12 sums, 2 registers of atoms, a factor and a
// product are the 16 registers of AVX2.
inline constexpr size_t kTileVectors = 2;
inline constexpr size_t kTileAtoms = kTileVectors * kWideLanes;
inline constexpr int kTileRows = 6;

// sum[i] + a[2i] b[2i] + a[2i + 1] b[2i + 1]
HWY_INLINE hn::Vec<WideTag> AddPairProducts(hn::Vec<PairTag> a, hn::Vec<PairTag> b,
                                            hn::Vec<WideTag> sum) {
  const WideTag d;
#if HWY_ARCH_X86
  auto unused = hn::Zero(d);
  return hn::ReorderWidenMulAccumulate(d, a, b, sum, unused);
#else
  const auto a_high = hn::ShiftRight<16>(hn::BitCast(d, a));
  const auto b_high = hn::ShiftRight<16>(hn::BitCast(d, b));
  const auto a_low = hn::ShiftRight<16>(hn::ShiftLeft<16>(hn::BitCast(d, a)));
  const auto b_low = hn::ShiftRight<16>(hn::ShiftLeft<16>(hn::BitCast(d, b)));
  return hn::Add(sum, hn::Add(hn::Mul(a_low, b_low), hn::Mul(a_high, b_high)));
#endif
}

// Scores of kRows vectors with kTileAtoms atoms of a panel, `pairs` pointing at the first of them.
template <int kRows>
HWY_INLINE void ProjectTile(const int16_t* HWY_RESTRICT pairs, const int16_t* HWY_RESTRICT vectors,
                            int n_pairs, int16_t* HWY_RESTRICT scores, size_t scores_stride) {
  const WideTag d;
  const PairTag d_pair;
  const hn::Rebind<int16_t, WideTag> d_narrow;
  hn::Vec<WideTag> sum[kRows * kTileVectors];
#pragma GCC unroll 16
  for (size_t v = 0; v < kRows * kTileVectors; ++v) sum[v] = hn::Zero(d);
  for (int i = 0; i < n_pairs; ++i) {
    hn::Vec<PairTag> atoms[kTileVectors];
#pragma GCC unroll 2
    for (size_t v = 0; v < kTileVectors; ++v) {
      atoms[v] = hn::LoadU(d_pair, pairs + (i * kPanelAtoms + v * kWideLanes) * 2);
      KeepInRegister(atoms[v]);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, vectors + (r * n_pairs + i) * 2, sizeof(pair));
      const auto factor = hn::BitCast(d_pair, hn::Set(d, pair));
#pragma GCC unroll 2
      for (size_t v = 0; v < kTileVectors; ++v) {
        auto& s = sum[r * kTileVectors + v];
        s = AddPairProducts(atoms[v], factor, s);
        KeepInRegister(s);
      }
    }
  }
  const auto half = hn::Set(d, 1 << 15);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (size_t v = 0; v < kTileVectors; ++v) {
      const auto rounded = hn::ShiftRight<16>(hn::Add(sum[r * kTileVectors + v], half));
      hn::StoreU(hn::DemoteTo(d_narrow, rounded), d_narrow,
                 scores + r * scores_stride + v * kWideLanes);
    }
  }
}

#endif

void QuantizeSimd(const Dictionary& dictionary, const float* vector, float factor, int16_t* to) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int16_t, decltype(d)> d_narrow;
  int16_t padded[base::kHeadDimMax];
  for (int i = 0; i < dictionary.row_stride(); i += static_cast<int>(hn::Lanes(d))) {
    const auto scaled = hn::Mul(hn::LoadU(d, vector + i), hn::Set(d, factor));
    hn::StoreU(hn::DemoteTo(d_narrow, hn::NearestInt(scaled)), d_narrow, padded + i);
  }
  std::memcpy(to, padded, dictionary.n_pairs() * 2 * sizeof(int16_t));
}

void ProjectBlockSimd(const Dictionary& dictionary, const int16_t* vectors, int n_vectors,
                      int16_t* scores) {
  const int n_pairs = dictionary.n_pairs();
  const size_t stride = dictionary.padded_atoms();
  for (size_t a = 0; a < stride; a += kTileAtoms) {
    const size_t panel = a / kPanelAtoms;
    const int16_t* pairs =
        dictionary.quantized() + (panel * n_pairs * kPanelAtoms + a % kPanelAtoms) * 2;
    int r = 0;
    for (; r + kTileRows <= n_vectors; r += kTileRows) {
      ProjectTile<kTileRows>(pairs, vectors + r * n_pairs * 2, n_pairs, scores + r * stride + a,
                             stride);
    }
    for (; r < n_vectors; ++r) {
      ProjectTile<1>(pairs, vectors + r * n_pairs * 2, n_pairs, scores + r * stride + a, stride);
    }
  }
}

int LargestOf(hn::Vec<ScoreTag> v) {
  const ScoreTag d;
  alignas(64) int16_t lanes[kScoreLanes];
  hn::Store(v, d, lanes);
  return *std::max_element(lanes, lanes + kScoreLanes);
}

int GramScoresSimd(const Dictionary& dictionary, const int16_t* HWY_RESTRICT base,
                   const int16_t* const* gram_rows, const int16_t* factors, int n_terms,
                   ScoreBuffer& buffer) {
  const ScoreTag d;
  int16_t* HWY_RESTRICT values = buffer.values.get();
  auto largest = hn::Zero(d);
  for (int chunk = 0; chunk < dictionary.n_chunks(); ++chunk) {
    auto chunk_largest = hn::Zero(d);
    const size_t chunk_end = static_cast<size_t>(chunk + 1) * kChunkAtoms;
    for (size_t a = chunk_end - kChunkAtoms; a < chunk_end; a += kScoreVectors * kScoreLanes) {
      hn::Vec<ScoreTag> sum[kScoreVectors];
#pragma GCC unroll 8
      for (size_t v = 0; v < kScoreVectors; ++v) sum[v] = hn::LoadU(d, base + a + v * kScoreLanes);
      for (int j = 0; j < n_terms; ++j) {
        const int16_t* HWY_RESTRICT row = gram_rows[j] + a;
        const auto factor = hn::Set(d, factors[j]);
#pragma GCC unroll 8
        for (size_t v = 0; v < kScoreVectors; ++v) {
          const auto entry = hn::LoadU(d, row + v * kScoreLanes);
          sum[v] = hn::Sub(sum[v], hn::MulFixedPoint15(entry, factor));
        }
      }
#pragma GCC unroll 8
      for (size_t v = 0; v < kScoreVectors; ++v) {
        const auto score = hn::Abs(sum[v]);
        hn::StoreU(score, d, values + a + v * kScoreLanes);
        chunk_largest = hn::Max(chunk_largest, score);
      }
    }
    hn::StoreU(chunk_largest, d, buffer.maxima.get() + chunk * kMaximaPerChunk);
    largest = hn::Max(largest, chunk_largest);
  }
  return LargestOf(largest);
}

void CollectCandidatesSimd(const Dictionary& dictionary, const ScoreBuffer& buffer, int least,
                           std::vector<uint16_t>& candidates) {
  const ScoreTag d;
  const auto below = hn::Set(d, static_cast<int16_t>(least - 1));
  const int16_t* values = buffer.values.get();
  for (int chunk = 0; chunk < dictionary.n_chunks(); ++chunk) {
    const auto largest = hn::LoadU(d, buffer.maxima.get() + chunk * kMaximaPerChunk);
    if (hn::AllFalse(d, hn::Gt(largest, below))) continue;
    const size_t end = std::min<size_t>((chunk + 1) * kChunkAtoms, dictionary.n_atoms());
    for (size_t a = static_cast<size_t>(chunk) * kChunkAtoms; a < end; a += kScoreLanes) {
      if (hn::AllFalse(d, hn::Gt(hn::LoadU(d, values + a), below))) continue;
      for (size_t i = a; i < std::min(a + kScoreLanes, end); ++i) {
        if (values[i] >= least) candidates.push_back(static_cast<uint16_t>(i));
      }
    }
  }
}

// Rows [row, row + 4) of the Gram matrix.
void GramRowsSimd(const Dictionary& dictionary, int row, int n_rows, int16_t* gram) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int16_t, decltype(d)> d_narrow;
  const size_t stride = dictionary.padded_atoms();
  alignas(64) float tile[4 * kPanelAtoms];
  for (int p = 0; p < dictionary.n_panels(); ++p) {
    const float* panel =
        dictionary.panels() + static_cast<size_t>(p) * dictionary.head_dim() * kPanelAtoms;
    if (n_rows == 4) {
      PanelTile<4>(panel, dictionary.row(row), dictionary.row_stride(), dictionary.head_dim(),
                   tile);
    } else {
      for (int r = 0; r < n_rows; ++r) {
        PanelTile<1>(panel, dictionary.row(row + r), dictionary.row_stride(), dictionary.head_dim(),
                     tile + r * kPanelAtoms);
      }
    }
    for (int r = 0; r < n_rows; ++r) {
      int16_t* to = gram + r * stride + static_cast<size_t>(p) * kPanelAtoms;
      for (size_t j = 0; j < kPanelAtoms; j += hn::Lanes(d)) {
        const auto scaled = hn::Mul(hn::LoadU(d, tile + r * kPanelAtoms + j), hn::Set(d, 32768.0f));
        hn::StoreU(hn::DemoteTo(d_narrow, hn::NearestInt(scaled)), d_narrow, to + j);
      }
    }
  }
}

int RefreshMaximaSimd(const Dictionary& dictionary, ScoreBuffer& buffer) {
  const ScoreTag d;
  auto largest = hn::Zero(d);
  for (int chunk = 0; chunk < dictionary.n_chunks(); ++chunk) {
    auto chunk_largest = hn::Zero(d);
    for (size_t i = 0; i < kChunkAtoms; i += kScoreLanes) {
      chunk_largest =
          hn::Max(chunk_largest, hn::LoadU(d, buffer.values.get() + chunk * kChunkAtoms + i));
    }
    hn::StoreU(chunk_largest, d, buffer.maxima.get() + chunk * kMaximaPerChunk);
    largest = hn::Max(largest, chunk_largest);
  }
  return LargestOf(largest);
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(QuantizeSimd);
HWY_EXPORT(ProjectBlockSimd);
HWY_EXPORT(GramScoresSimd);
HWY_EXPORT(CollectCandidatesSimd);
HWY_EXPORT(RefreshMaximaSimd);
HWY_EXPORT(GramRowsSimd);

ScoreBuffer::ScoreBuffer(const Dictionary& dictionary)
    : values(hwy::AllocateAligned<int16_t>(dictionary.padded_atoms())),
      maxima(hwy::AllocateAligned<int16_t>(dictionary.n_chunks() * kMaximaPerChunk)) {}

void Quantize(const Dictionary& dictionary, const float* vector, float norm, int16_t* to) {
  HWY_DYNAMIC_DISPATCH(QuantizeSimd)(dictionary, vector, kQuantizedOne / norm, to);
}

float ProjectionErrorBound(int head_dim) {
  return 0.5f * std::sqrt(static_cast<float>(head_dim)) + 1.0f;
}

void ProjectBlock(const Dictionary& dictionary, const int16_t* vectors, int n_vectors,
                  int16_t* scores) {
  HWY_DYNAMIC_DISPATCH(ProjectBlockSimd)(dictionary, vectors, n_vectors, scores);
}

int GramScores(const Dictionary& dictionary, const int16_t* base, const int16_t* const* gram_rows,
               const int16_t* factors, int n_terms, ScoreBuffer& buffer) {
  return HWY_DYNAMIC_DISPATCH(GramScoresSimd)(dictionary, base, gram_rows, factors, n_terms,
                                              buffer);
}

void CollectCandidates(const Dictionary& dictionary, const ScoreBuffer& buffer, int least,
                       std::vector<uint16_t>& candidates) {
  HWY_DYNAMIC_DISPATCH(CollectCandidatesSimd)(dictionary, buffer, least, candidates);
}

int RefreshMaxima(const Dictionary& dictionary, ScoreBuffer& buffer) {
  return HWY_DYNAMIC_DISPATCH(RefreshMaximaSimd)(dictionary, buffer);
}

void BuildGram(const Dictionary& dictionary, int threads, int16_t* gram) {
  const int n_atoms = dictionary.n_atoms();
  const size_t stride = dictionary.padded_atoms();
  const size_t panel_atoms = static_cast<size_t>(dictionary.n_panels()) * kPanelAtoms;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int row = 0; row < n_atoms; row += 4) {
    const int n_rows = std::min(4, n_atoms - row);
    int16_t* to = gram + row * stride;
    HWY_DYNAMIC_DISPATCH(GramRowsSimd)(dictionary, row, n_rows, to);
    for (int r = 0; r < n_rows; ++r) {
      std::fill(to + r * stride + panel_atoms, to + (r + 1) * stride, int16_t{0});
    }
  }
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

#include "kernels/cpu/omp_project.h"

#include <cmath>
#include <cstring>

#include "proto/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/omp_project.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/panel_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

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
// product are the 16 registers of AVX2; 12 vectors fill the 32 of AVX-512.
inline constexpr size_t kTileVectors = 2;
inline constexpr size_t kTileAtoms = kTileVectors * kWideLanes;
inline constexpr int kTileRows = HWY_CAP_GE512 ? 12 : 6;

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
#pragma GCC unroll 24
  for (size_t v = 0; v < kRows * kTileVectors; ++v) sum[v] = hn::Zero(d);
  for (int i = 0; i < n_pairs; ++i) {
    hn::Vec<PairTag> atoms[kTileVectors];
#pragma GCC unroll 2
    for (size_t v = 0; v < kTileVectors; ++v) {
      atoms[v] = hn::LoadU(d_pair, pairs + (i * kPanelAtoms + v * kWideLanes) * 2);
      KeepInRegister(atoms[v]);
    }
#pragma GCC unroll 12
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
#pragma GCC unroll 12
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

// The same for n_rows <= kRows vectors.
template <int kRows>
void ProjectRows(int n_rows, const int16_t* pairs, const int16_t* vectors, int n_pairs,
                 int16_t* scores, size_t scores_stride) {
  if (n_rows == kRows) return ProjectTile<kRows>(pairs, vectors, n_pairs, scores, scores_stride);
  if constexpr (kRows > 1) {
    ProjectRows<kRows - 1>(n_rows, pairs, vectors, n_pairs, scores, scores_stride);
  }
}

void ProjectBlockSimd(const Dictionary& dictionary, const int16_t* vectors, int n_vectors,
                      int16_t* scores) {
  const int n_pairs = dictionary.n_pairs();
  const size_t stride = dictionary.padded_atoms();
  const int n_tiles = (n_vectors + kTileRows - 1) / kTileRows;
  for (size_t a = 0; a < stride; a += kTileAtoms) {
    const size_t panel = a / kPanelAtoms;
    const int16_t* pairs =
        dictionary.quantized() + (panel * n_pairs * kPanelAtoms + a % kPanelAtoms) * 2;
    for (int t = 0; t < n_tiles; ++t) {
      const int begin = n_vectors * t / n_tiles;
      ProjectRows<kTileRows>(n_vectors * (t + 1) / n_tiles - begin, pairs,
                             vectors + begin * n_pairs * 2, n_pairs, scores + begin * stride + a,
                             stride);
    }
  }
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(QuantizeSimd);
HWY_EXPORT(ProjectBlockSimd);

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

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

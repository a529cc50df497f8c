#include "kernels/cpu/omp_pursuit.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/api/omp_encode.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/omp_pursuit.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
//
#include <hwy/cache_control.h>

#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {

// to = x / ||x||, zero-padded to whole rows; returns ||x||, which may be 0 or not finite, and then
// leaves `to` as it is.
double Normalise(const float* x, int head_dim, size_t stride, float* to) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> df;
  alignas(64) float padded[base::kHeadDimMax];
  std::memcpy(padded, x, head_dim * sizeof(float));
  std::fill(padded + head_dim, padded + stride, 0.0f);
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < stride; i += hn::Lanes(d)) {
    const auto value = hn::PromoteTo(d, hn::LoadU(df, padded + i));
    sum = hn::MulAdd(value, value, sum);
  }
  const double norm = std::sqrt(hn::GetLane(hn::SumOfLanes(d, sum)));
  if (!std::isfinite(norm) || norm == 0) return norm;
  const auto inverse = hn::Set(d, 1 / norm);
  for (size_t i = 0; i < stride; i += hn::Lanes(d)) {
    const auto value = hn::PromoteTo(d, hn::LoadU(df, padded + i));
    hn::StoreU(hn::DemoteTo(df, hn::Mul(value, inverse)), df, to + i);
  }
  return norm;
}

// scores[i] = |<residual, d of atoms[i]>|, the same bits whatever stands beside them.
void CandidateScores(const Dictionary& dictionary, const float* residual, const uint16_t* atoms,
                     size_t n, float* scores) {
  for (size_t i = 0; i < n; ++i) {
    scores[i] = std::abs(Dot(residual, dictionary.row(atoms[i]), dictionary.row_stride()));
  }
}

// <a, b> over [stride], off by some 1e-9 of unit vectors: four products at a time are added in
// FP32, their sums in double. A third of the conversions of sums all in double; the least pivot
// squared is a thousand times larger.
double FineDot(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, size_t stride) {
#if HWY_TARGET == HWY_SCALAR
  double sum = 0;
  for (size_t i = 0; i < stride; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
#else
  const RowTag d;
  constexpr size_t kLanes = hn::MaxLanes(RowTag());
  const hn::Half<RowTag> d_half;
  const hn::Rebind<double, decltype(d_half)> d_wide;
  auto low = hn::Zero(d_wide);
  auto high = hn::Zero(d_wide);
  for (size_t i = 0; i < stride;) {
    auto sum = hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i));
    i += kLanes;
    for (int term = 1; term < 4 && i < stride; ++term, i += kLanes) {
      sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
    }
    low = hn::Add(low, hn::PromoteTo(d_wide, hn::LowerHalf(d_half, sum)));
    high = hn::Add(high, hn::PromoteTo(d_wide, hn::UpperHalf(d_half, sum)));
  }
  return hn::GetLane(hn::SumOfLanes(d_wide, hn::Add(low, high)));
#endif
}

// products[j] = <d of atom, d of atoms[j]>; then with itself and with x.
void FactorProducts(const Dictionary& dictionary, int atom, const uint16_t* atoms, int n,
                    const float* x, double* products) {
  const float* row = dictionary.row(atom);
  const size_t stride = dictionary.row_stride();
  for (int j = 0; j < n; ++j) products[j] = FineDot(row, dictionary.row(atoms[j]), stride);
  products[n] = FineDot(row, row, stride);
  products[n + 1] = FineDot(row, x, stride);
}

// to [stride] = sum_j factors[j] * matrix[j], rows of `stride` doubles, a multiple of 8.
void CombineDoubles(const double* HWY_RESTRICT matrix, size_t stride,
                    const double* HWY_RESTRICT factors, int n, double* HWY_RESTRICT to) {
  const hn::CappedTag<double, 8> d;
  for (size_t i = 0; i < stride; i += 8) {
    constexpr size_t kVectors = 8 / hn::MaxLanes(hn::CappedTag<double, 8>());
    hn::Vec<decltype(d)> sum[kVectors];
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) sum[v] = hn::Zero(d);
    for (int j = 0; j < n; ++j) {
      const double* from = matrix + j * stride + i;
#pragma GCC unroll 8
      for (size_t v = 0; v < kVectors; ++v) {
        sum[v] = hn::MulAdd(hn::Set(d, factors[j]), hn::LoadU(d, from + v * hn::Lanes(d)), sum[v]);
      }
    }
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sum[v], d, to + i + v * hn::Lanes(d));
  }
}

// rest = x + sum_j factors[j] * d of atoms[j]; returns its norm.
float Combine(const Dictionary& dictionary, const float* x, const uint16_t* atoms,
              const float* factors, int n, float* rest) {
  const size_t stride = dictionary.row_stride();
  CombineRows(dictionary.rows(), stride, atoms, factors, n, x, rest);
  return std::sqrt(Dot(rest, rest, stride));
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

namespace {
void PrefetchBytes(const void* data, size_t n_bytes) {
  for (size_t i = 0; i < n_bytes; i += 64) hwy::Prefetch(static_cast<const char*>(data) + i);
}
}  // namespace

HWY_EXPORT(Normalise);
HWY_EXPORT(CandidateScores);
HWY_EXPORT(FactorProducts);
HWY_EXPORT(CombineDoubles);
HWY_EXPORT(Combine);

Pursuit::Pursuit(const Dictionary& dictionary, int sparsity, float error_threshold)
    : dictionary_(dictionary),
      sparsity_(sparsity),
      stop_(std::max(error_threshold, static_cast<float>(kResidualStop))),
      stride_((sparsity + 7) / 8 * 8),
      columns_(static_cast<size_t>(sparsity) * stride_),
      rows_(static_cast<size_t>(sparsity) * stride_),
      excluded_(dictionary.n_atoms(), 0) {}

void Pursuit::Begin(const float* x) {
  norm_ = HWY_DYNAMIC_DISPATCH(Normalise)(x, dictionary_.head_dim(), dictionary_.row_stride(),
                                          x_.data());
  finite_ = std::isfinite(norm_);
  n_atoms_ = 0;
  for (const uint16_t atom : excluded_atoms_) excluded_[atom] = 0;
  excluded_atoms_.clear();
  done_ = !finite_ || norm_ == 0;
  if (done_) return;
  residual_ = x_;
  residual_norm_ = 1;
  std::ranges::fill(columns_, 0.0);
  exact_coefficients_.fill(0);
}

void Pursuit::Exclude(int atom) {
  excluded_[atom] = 1;
  excluded_atoms_.push_back(static_cast<uint16_t>(atom));
}

// Let e be the error bound and m the largest score. The true best is at least m - e, so it has a
// score of at least m - 2e: collecting those is enough. Among the collected, one whose true value
// is at least m - e beats all that were not collected. That can fail only after atoms were excluded
// (chosen ones may still hold the largest score); then their scores are cleared and the search
// starts again, and each new search either chooses, excludes one more, or ends.
void Pursuit::Look(const Scores& scores) {
  // Candidates lie anywhere in the dictionary: all of a moderate number are asked for.
  constexpr size_t kAskedFor = 32;
  least_ = std::max(0, static_cast<int>(std::floor(scores.largest - 2 * scores.error)));
  candidate_atoms_.clear();
  CollectCandidates(dictionary_, scores.values, least_, candidate_atoms_);
  std::erase_if(candidate_atoms_, [this](uint16_t atom) { return excluded_[atom] != 0; });
  const size_t row_bytes = dictionary_.head_dim() * sizeof(float);
  for (size_t i = 0; i < std::min(candidate_atoms_.size(), kAskedFor); ++i) {
    PrefetchBytes(dictionary_.row(candidate_atoms_[i]), row_bytes);
  }
}

void Pursuit::Choose(Scores& scores) {
  if (ChooseCandidate(scores, /*complete=*/false)) return;
  do {
    for (const uint16_t atom : excluded_atoms_) scores.values[atom] = 0;
    scores.largest = LargestMagnitude(dictionary_, scores.values);
    Look(scores);
  } while (!ChooseCandidate(scores, /*complete=*/true));
}

bool Pursuit::ChooseCandidate(const Scores& scores, bool complete) {
  const float surely_best = (scores.largest - scores.error) / scores.scale;
  std::vector<float>& exact = candidate_scores_;
  exact.resize(candidate_atoms_.size());
  HWY_DYNAMIC_DISPATCH(CandidateScores)
  (dictionary_, residual_.data(), candidate_atoms_.data(), exact.size(), exact.data());
  for (bool first = true; !exact.empty(); first = false) {
    // The first of equals, as the definition says: atoms are in ascending order.
    const auto best = std::max_element(exact.begin(), exact.end());
    const uint16_t atom = candidate_atoms_[best - exact.begin()];
    const bool best_of_all = *best >= surely_best || least_ == 0 || (complete && first);
    if (!best_of_all) return false;
    if (*best <= static_cast<float>(kScoreStop)) {
      done_ = true;
      return true;
    }
    Exclude(atom);
    if (Add(atom)) {
      if (gram_ != nullptr && !done_) {
        const size_t row = dictionary_.padded_atoms() / 2;
        PrefetchBytes(gram_ + atom * row, row * sizeof(int16_t));
      }
      return true;
    }
    *best = -1;
  }
  if (least_ == 0) done_ = true;
  return done_;
}

bool Pursuit::Add(int atom) {
  const int k = n_atoms_;
  std::array<double, base::kSparsityMax + 2> products;
  HWY_DYNAMIC_DISPATCH(FactorProducts)
  (dictionary_, atom, atoms_.data(), k, x_.data(), products.data());

  alignas(64) std::array<double, base::kSparsityMax> w;
  HWY_DYNAMIC_DISPATCH(CombineDoubles)(columns_.data(), stride_, products.data(), k, w.data());
  double pivot_squared = products[k];
  double y = products[k + 1];
  for (int j = 0; j < k; ++j) {
    pivot_squared -= w[j] * w[j];
    y -= w[j] * y_[j];
  }
  if (!(pivot_squared >= kPivotMin * kPivotMin)) return false;
  const double inverse_pivot = 1 / std::sqrt(pivot_squared);
  double* row = rows_.data() + static_cast<size_t>(k) * stride_;
  HWY_DYNAMIC_DISPATCH(CombineDoubles)(rows_.data(), stride_, w.data(), k, row);
  row[k] = -1;
  y_[k] = y * inverse_pivot;
  atoms_[k] = static_cast<uint16_t>(atom);
  n_atoms_ = k + 1;
  std::array<float, base::kSparsityMax> negative;
  for (int j = 0; j <= k; ++j) {
    row[j] *= -inverse_pivot;
    columns_[static_cast<size_t>(j) * stride_ + k] = row[j];
    exact_coefficients_[j] += y_[k] * row[j];
    coefficients_[j] = static_cast<float>(exact_coefficients_[j]);
    negative[j] = -coefficients_[j];
  }
  residual_norm_ = HWY_DYNAMIC_DISPATCH(Combine)(dictionary_, x_.data(), atoms_.data(),
                                                 negative.data(), n_atoms_, residual_.data());
  done_ = n_atoms_ == sparsity_ || residual_norm_ <= stop_;
  return true;
}

void Pursuit::Finish(uint16_t* atoms, uint8_t* coefs, float* rel_error) {
  std::fill_n(atoms, sparsity_, uint16_t{0});
  std::fill_n(coefs, sparsity_, uint8_t{0});
  *rel_error = finite_ ? 0 : std::numeric_limits<float>::quiet_NaN();
  if (!finite_ || norm_ == 0) return;
  std::array<float, base::kSparsityMax> negative;
  for (int j = 0; j < n_atoms_; ++j) {
    atoms[j] = atoms_[j];
    coefs[j] = FloatToE4m3(static_cast<float>(coefficients_[j] * norm_));
    negative[j] = static_cast<float>(-E4m3ToFloat(coefs[j]) / norm_);
  }
  *rel_error = HWY_DYNAMIC_DISPATCH(Combine)(dictionary_, x_.data(), atoms_.data(), negative.data(),
                                             n_atoms_, residual_.data());
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

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

#ifndef LEXICO_KERNELS_CPU_OMP_PURSUIT_ONCE
#define LEXICO_KERNELS_CPU_OMP_PURSUIT_ONCE
namespace lexico::kernels::cpu {
// Rows multiplied together: their sums do not wait for each other.
inline constexpr int kRowsTogether = 4;
}  // namespace lexico::kernels::cpu
#endif

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

// scores[i] = |<residual, d of atoms[i]>|, the same bits whatever stands beside them. [n rounded up
// to kRowsTogether]
void CandidateScores(const Dictionary& dictionary, const float* residual, const uint16_t* atoms,
                     int n, float* scores) {
  for (int i = 0; i < n; i += kRowsTogether) {
    const float* rows[kRowsTogether];
    for (int r = 0; r < kRowsTogether; ++r) rows[r] = dictionary.row(atoms[std::min(i + r, n - 1)]);
    float products[kRowsTogether];
    DotMany<kRowsTogether>(residual, rows, dictionary.row_stride(), products);
    for (int r = 0; r < kRowsTogether; ++r) scores[i + r] = std::abs(products[r]);
  }
}

// products[r] = <a, b[r]> over [stride], off by some 1e-9 of unit vectors: four products at a time
// are added in FP32, their sums in double. A third of the conversions of sums all in double; the
// least pivot squared is a thousand times larger.
void FineDots(const float* HWY_RESTRICT a, const float* const (&b)[kRowsTogether], size_t stride,
              double* HWY_RESTRICT products) {
#if HWY_TARGET == HWY_SCALAR
  for (int r = 0; r < kRowsTogether; ++r) {
    products[r] = 0;
    for (size_t i = 0; i < stride; ++i) products[r] += static_cast<double>(a[i]) * b[r][i];
  }
#else
  const RowTag d;
  constexpr size_t kLanes = hn::MaxLanes(RowTag());
  const hn::Half<RowTag> d_half;
  const hn::Rebind<double, decltype(d_half)> d_wide;
  hn::Vec<decltype(d_wide)> wide[kRowsTogether];
#pragma GCC unroll 4
  for (int r = 0; r < kRowsTogether; ++r) wide[r] = hn::Zero(d_wide);
  for (size_t i = 0; i < stride;) {
    const size_t end = std::min(stride, i + 4 * kLanes);
    hn::Vec<RowTag> sum[kRowsTogether];
#pragma GCC unroll 4
    for (int r = 0; r < kRowsTogether; ++r) sum[r] = hn::Zero(d);
    for (; i < end; i += kLanes) {
      const auto factor = hn::LoadU(d, a + i);
#pragma GCC unroll 4
      for (int r = 0; r < kRowsTogether; ++r) {
        sum[r] = hn::MulAdd(factor, hn::LoadU(d, b[r] + i), sum[r]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRowsTogether; ++r) {
      const auto low = hn::PromoteTo(d_wide, hn::LowerHalf(d_half, sum[r]));
      const auto high = hn::PromoteTo(d_wide, hn::UpperHalf(d_half, sum[r]));
      wide[r] = hn::Add(wide[r], hn::Add(low, high));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRowsTogether; ++r) {
    products[r] = hn::GetLane(hn::SumOfLanes(d_wide, wide[r]));
  }
#endif
}

// products[j] = <d of atom, d of atoms[j]>; then with itself and with x. [n + 2 rounded up to
// kRowsTogether]
void FactorProducts(const Dictionary& dictionary, int atom, const uint16_t* atoms, int n,
                    const float* x, double* products) {
  const float* row = dictionary.row(atom);
  const auto other = [&](int j) { return j < n ? dictionary.row(atoms[j]) : j == n ? row : x; };
  for (int j = 0; j < n + 2; j += kRowsTogether) {
    const float* const rows[kRowsTogether] = {other(j), other(j + 1), other(j + 2), other(j + 3)};
    FineDots(row, rows, dictionary.row_stride(), products + j);
  }
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

// The first of the largest of scores [n]; without branches, which would be mispredicted.
int FirstLargest(const float* scores, int n) {
  float largest = -1;
  int place = 0;
  for (int i = 0; i < n; ++i) {
    const bool more = scores[i] > largest;
    place = more ? i : place;
    largest = more ? scores[i] : largest;
  }
  return place;
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
      candidate_atoms_(dictionary.n_atoms() + 1),
      candidate_scores_(dictionary.n_atoms() + kRowsTogether) {}

void Pursuit::Begin(const float* x) {
  norm_ = HWY_DYNAMIC_DISPATCH(Normalise)(x, dictionary_.head_dim(), dictionary_.row_stride(),
                                          x_.data());
  finite_ = std::isfinite(norm_);
  n_atoms_ = 0;
  excluded_.clear();
  done_ = !finite_ || norm_ == 0;
  if (done_) return;
  residual_ = x_;
  residual_norm_ = 1;
  std::ranges::fill(columns_, 0.0);
  exact_coefficients_.fill(0);
}

// Let e be the error bound and m the largest score. The true best is at least m - e, so it has a
// score of at least m - 2e: collecting those is enough. Among the collected, one whose true value
// is at least m - e beats all that were not collected. That can fail only after atoms were excluded
// (chosen ones may still hold the largest score); then their scores are cleared and the search
// starts again, and each new search either chooses, excludes one more, or ends.
void Pursuit::Look(const Scores& scores) {
  // Candidates lie anywhere in the dictionary: all of a moderate number are asked for.
  constexpr int kAskedFor = 32;
  candidates_ = FindCandidates(dictionary_, scores, candidate_atoms_.data());
  const size_t row_bytes = dictionary_.head_dim() * sizeof(float);
  for (int i = 0; i < std::min(candidates_.n, kAskedFor); ++i) {
    PrefetchBytes(dictionary_.row(candidate_atoms_[i]), row_bytes);
  }
}

void Pursuit::Choose(const Scores& scores) {
  if (ChooseCandidate(scores, /*complete=*/false)) return;
  do {
    for (const uint16_t atom : excluded_) scores.value(atom) = 0;
    FindMaxima(dictionary_, scores);
    Look(scores);
  } while (!ChooseCandidate(scores, /*complete=*/true));
}

bool Pursuit::ChooseCandidate(const Scores& scores, bool complete) {
  const float surely_best = (candidates_.largest - scores.error) / scores.scale;
  float* exact = candidate_scores_.data();
  HWY_DYNAMIC_DISPATCH(CandidateScores)
  (dictionary_, residual_.data(), candidate_atoms_.data(), candidates_.n, exact);
  bool first = true;
  while (candidates_.n > 0) {
    // The first of equals, as the definition says: atoms are in ascending order.
    const int place = FirstLargest(exact, candidates_.n);
    const float best = exact[place];
    if (best < 0) break;  // all were tried
    exact[place] = -1;
    const uint16_t atom = candidate_atoms_[place];
    if (std::ranges::find(excluded_, atom) != excluded_.end()) continue;
    const bool best_of_all = best >= surely_best || candidates_.least == 0 || (complete && first);
    if (!best_of_all) return false;
    if (best <= static_cast<float>(kScoreStop)) {
      done_ = true;
      return true;
    }
    excluded_.push_back(atom);
    if (Add(atom)) {
      if (gram_ != nullptr && !done_) {
        const size_t row = dictionary_.padded_atoms() / 2;
        PrefetchBytes(gram_ + atom * row, row * sizeof(int16_t));
      }
      return true;
    }
    first = false;
  }
  if (candidates_.least == 0) done_ = true;
  return done_;
}

bool Pursuit::Add(int atom) {
  const int k = n_atoms_;
  std::array<double, base::kSparsityMax + 2 + kRowsTogether> products;
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

void Pursuit::Finish(uint16_t* atoms, uint8_t* coefs, float* coefficients, float* rel_error) {
  std::fill_n(atoms, sparsity_, uint16_t{0});
  std::fill_n(coefs, sparsity_, uint8_t{0});
  if (coefficients != nullptr) std::fill_n(coefficients, sparsity_, 0.0f);
  *rel_error = finite_ ? 0 : std::numeric_limits<float>::quiet_NaN();
  if (!finite_ || norm_ == 0) return;
  std::array<float, base::kSparsityMax> negative;
  for (int j = 0; j < n_atoms_; ++j) {
    atoms[j] = atoms_[j];
    const auto coefficient = static_cast<float>(coefficients_[j] * norm_);
    if (coefficients != nullptr) coefficients[j] = coefficient;
    coefs[j] = FloatToE4m3(coefficient);
    negative[j] = static_cast<float>(-E4m3ToFloat(coefs[j]) / norm_);
  }
  *rel_error = HWY_DYNAMIC_DISPATCH(Combine)(dictionary_, x_.data(), atoms_.data(), negative.data(),
                                             n_atoms_, residual_.data());
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

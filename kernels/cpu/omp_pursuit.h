// The pursuit of one vector: everything but the search over all atoms.
//
// The vector is scaled to norm 1 first (its norm is kept in double), so nothing below overflows or
// vanishes. Least squares over the chosen atoms by the inverse M of the Cholesky factor, in double:
// M (D_S D_S^T) M^T = 1, y = M D_S x, c = M^T y. An atom adds a row m to M and y_k m to c; nothing
// is solved, so no result waits for the one before it. Products of atoms are right to 1e-9. The
// residual is always x - sum_j c_j d_j with the coefficients at hand, so it is what the search step
// assumes it is, whatever their accuracy.
//
// The choice is made by FP32 products of the residual with the candidate rows; scores only say
// which atoms are candidates. So the outcome depends on the vector and the dictionary alone, not on
// how the scores were made.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/omp_scores.h"
#include "proto/base/limits.h"

namespace lexico::kernels::cpu {

class Pursuit {
 public:
  // `dictionary` must outlive the pursuit. One pursuit serves many vectors, one after another.
  Pursuit(const Dictionary& dictionary, int sparsity, float error_threshold);

  // A Gram matrix (omp_gram.h) that the caller will read at the rows of the chosen atoms: a row is
  // asked for as soon as its atom is chosen, because it comes from the last cache or from memory
  // (16 MiB at 4096 atoms). Must outlive the pursuit; null asks for nothing.
  void PrefetchFrom(const int16_t* gram) { gram_ = gram; }

  // Starts on x [head_dim]. A zero or non-finite vector is done at once.
  void Begin(const float* x);
  bool done() const { return done_; }
  bool finite() const { return finite_; }

  // The residual and its norm, of the vector scaled to norm 1; [row_stride], zero-padded.
  const float* residual() const { return residual_.data(); }
  float residual_norm() const { return residual_norm_; }
  const float* unit_vector() const { return x_.data(); }

  // The atoms chosen so far, in greedy order, and their coefficients, of the vector of norm 1.
  std::span<const uint16_t> atoms() const { return {atoms_.data(), static_cast<size_t>(n_atoms_)}; }
  const float* coefficients() const { return coefficients_.data(); }

  // Takes one more atom in two steps, between which the caller may turn to other vectors while rows
  // come from memory. Look finds the candidates and asks for their rows. Choose takes the best, or
  // finds that there is none to take; afterwards possibly done(). Values may be changed.
  // REQUIRES: !done(), the same scores for both
  void Look(const Scores& scores);
  void Choose(const Scores& scores);

  // Writes the code [sparsity], its coefficients before rounding unless that is null, and the
  // relative error of the stored ones.
  void Finish(uint16_t* atoms, uint8_t* coefs, float* coefficients, float* rel_error);

 private:
  // Takes the best candidate that can be added; false if that is not known to be the best atom.
  // `complete`: the best candidate is the best atom.
  bool ChooseCandidate(const Scores& scores, bool complete);
  // Adds an atom to the factor; false if it lies within kPivotMin of the span.
  bool Add(int atom);

  const Dictionary& dictionary_;
  const int sparsity_;
  const float stop_;  // residual norm at which nothing is left to explain

  const int16_t* gram_ = nullptr;
  bool done_ = true;
  bool finite_ = true;
  double norm_ = 0;
  int n_atoms_ = 0;
  float residual_norm_ = 0;
  std::array<uint16_t, base::kSparsityMax> atoms_{};
  alignas(64) std::array<float, base::kSparsityMax> coefficients_{};
  alignas(64) std::array<float, base::kHeadDimMax> x_{};
  alignas(64) std::array<float, base::kHeadDimMax> residual_{};

  // M twice, by columns for w = M v and by rows for M^T w, so that both add along an array:
  // columns_[j * stride_ + i] = rows_[i * stride_ + j] = M[i, j]; 0 above the diagonal and past it.
  int stride_;  // sparsity rounded up to whole vectors
  std::vector<double> columns_;
  std::vector<double> rows_;
  alignas(64) std::array<double, base::kSparsityMax> y_{};
  alignas(64) std::array<double, base::kSparsityMax> exact_coefficients_{};

  std::vector<uint16_t> excluded_;  // chosen, or within the span of the chosen
  Candidates candidates_;
  std::vector<uint16_t> candidate_atoms_;  // [n_atoms + 1]
  std::vector<float> candidate_scores_;    // [n_atoms rounded up]
};

}  // namespace lexico::kernels::cpu

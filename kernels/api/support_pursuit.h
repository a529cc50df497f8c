// The pursuit of a vector among few atoms, in double, by inner products alone: the arithmetic of
// DemoteCodes, the same on a CPU and in a warp of a GPU.
//
// With q_0, q_1, ... the chosen atoms made orthonormal one after another, and r what is left:
//   v[j][k] = <d_j, q_k>,   score[j] = <r, d_j>,   y_k = <x, q_k>
// choosing atom a as the k-th takes column[j] = <d_j, d_a> and nothing else:
//   pivot^2 = column[a] - sum_i v[a][i]^2      its distance to the span of the chosen
//   v[j][k] = (column[j] - sum_i v[j][i] v[a][i]) / pivot
//   y_k = score[a] / pivot;   score[j] -= v[j][k] y_k;   ||r||^2 -= y_k^2
// and the coefficients solve sum_{j >= k} c_j v[pick j][k] = y_k, last one first.
//
// A Team is who computes: Lane() of Lanes() take every Lanes()-th place, Sync() lets each see what
// the others wrote, Best() agrees on a place. One thread is OneLane; a warp is in
// kernels/cuda/demote_codes.cu.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/api/omp_encode.h"

#ifdef __CUDACC__
#define LEXICO_HOST_DEVICE __host__ __device__
#else
#define LEXICO_HOST_DEVICE
#endif

namespace lexico::kernels {

// A place among the atoms, its |score|, and its atom, which decides between equals.
struct SupportPick {
  double score = -1;
  int atom = 0;
  int place = -1;

  LEXICO_HOST_DEVICE bool IsBetterThan(const SupportPick& other) const {
    return score > other.score || (score == other.score && place >= 0 && atom < other.atom);
  }
};

struct OneLane {
  LEXICO_HOST_DEVICE int Lane() const { return 0; }
  LEXICO_HOST_DEVICE int Lanes() const { return 1; }
  LEXICO_HOST_DEVICE void Sync() const {}
  LEXICO_HOST_DEVICE SupportPick Best(SupportPick mine) const { return mine; }
};

// What a pursuit keeps, in memory that its whole team reaches. Cut from one array of Doubles(n, s)
// numbers.
struct SupportMemory {
  double* score;         // [n] <r, d_j>; the caller writes <x, d_j> before Begin
  double* column;        // [n] the caller writes <d_j, d_a> before Take
  double* v;             // [n, sparsity]
  double* y;             // [sparsity]
  double* coefficients;  // [sparsity] of the picks, by Solve

  LEXICO_HOST_DEVICE static constexpr size_t Doubles(int n, int sparsity) {
    return static_cast<size_t>(n) * (sparsity + 2) + 2 * static_cast<size_t>(sparsity);
  }
  LEXICO_HOST_DEVICE SupportMemory(double* array, int n, int sparsity)
      : score(array),
        column(score + n),
        v(column + n),
        y(v + static_cast<size_t>(n) * sparsity),
        coefficients(y + sparsity) {}
};

template <typename Team>
class SupportPursuit {
 public:
  // Of n places, each an atom of `atoms` [n]; `picks` [sparsity] and `open` [n] are the team's too.
  LEXICO_HOST_DEVICE SupportPursuit(const Team& team, const SupportMemory& memory,
                                    const uint16_t* atoms, int n, int sparsity, int* picks,
                                    uint8_t* open)
      : team_(team),
        memory_(memory),
        atoms_(atoms),
        n_(n),
        sparsity_(sparsity),
        picks_(picks),
        open_(open) {}

  // `squares`: <x, x>.
  LEXICO_HOST_DEVICE void Begin(double squares) {
    squares_ = rest_ = squares;
    n_picks_ = 0;
    for (int j = team_.Lane(); j < n_; j += team_.Lanes()) open_[j] = 1;
    team_.Sync();
  }

  // The place of the best atom that may still be chosen, or -1 when the pursuit ends. The caller
  // then fills memory.column at this place and all that are open.
  LEXICO_HOST_DEVICE int Next() {
    if (n_picks_ == sparsity_ || !(rest_ > kResidualStop * kResidualStop * squares_)) return -1;
    SupportPick best;
    for (int j = team_.Lane(); j < n_; j += team_.Lanes()) {
      if (open_[j] == 0) continue;
      const SupportPick pick = {fabs(memory_.score[j]), atoms_[j], j};
      if (pick.IsBetterThan(best)) best = pick;
    }
    best = team_.Best(best);
    if (best.place < 0 || !(best.score > kScoreStop * sqrt(squares_))) return -1;
    return best.place;
  }

  // Adds the atom there, unless it lies within kPivotMin of the span; either way it is not open any
  // more. REQUIRES: Sync since the column was written.
  LEXICO_HOST_DEVICE void Take(int place) {
    const double* own = memory_.v + static_cast<size_t>(place) * sparsity_;
    double pivot = memory_.column[place];
    for (int i = 0; i < n_picks_; ++i) pivot -= own[i] * own[i];
    const double score = memory_.score[place];
    team_.Sync();
    const bool is_new = pivot >= kPivotMin * kPivotMin;
    const double inverse = is_new ? 1 / sqrt(pivot) : 0;
    const double y = score * inverse;
    for (int j = team_.Lane(); is_new && j < n_; j += team_.Lanes()) {
      if (open_[j] == 0) continue;
      double* row = memory_.v + static_cast<size_t>(j) * sparsity_;
      double rest = memory_.column[j];
      for (int i = 0; i < n_picks_; ++i) rest -= row[i] * own[i];
      row[n_picks_] = rest * inverse;
      memory_.score[j] -= row[n_picks_] * y;
    }
    team_.Sync();
    if (team_.Lane() == 0) {
      open_[place] = 0;
      if (is_new) {
        picks_[n_picks_] = place;
        memory_.y[n_picks_] = y;
      }
    }
    if (is_new) {
      rest_ -= y * y;
      ++n_picks_;
    }
    team_.Sync();
  }

  // The coefficients of the picks, into memory.coefficients.
  LEXICO_HOST_DEVICE void Solve() {
    for (int k = n_picks_ - 1; team_.Lane() == 0 && k >= 0; --k) {
      double value = memory_.y[k];
      for (int j = k + 1; j < n_picks_; ++j) {
        value -= memory_.coefficients[j] * memory_.v[picks_[j] * sparsity_ + k];
      }
      memory_.coefficients[k] = value / memory_.v[picks_[k] * sparsity_ + k];
    }
    team_.Sync();
  }

  LEXICO_HOST_DEVICE int n_picks() const { return n_picks_; }
  LEXICO_HOST_DEVICE bool IsOpen(int place) const { return open_[place] != 0; }

 private:
  const Team team_;
  const SupportMemory memory_;
  const uint16_t* atoms_;
  const int n_;
  const int sparsity_;
  int* const picks_;
  uint8_t* const open_;
  int n_picks_ = 0;
  double squares_ = 0;
  double rest_ = 0;  // ||r||^2
};

}  // namespace lexico::kernels

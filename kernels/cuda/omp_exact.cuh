// The exact way to take an atom, for vectors that the fast one (omp_pursuit.cuh) hands over: where
// no candidate stands clear of the search's error, where atoms are nearly dependent, and from 32
// atoms on. One warp a vector; slow, and the last word on every guard of kernels/api/omp_encode.h.
//
// A Cholesky factor that grows by one row an atom, in double and in global memory: L L^T =
// D_S D_S^T, L y = D_S x, L^T c = y; the residual is x - sum_j c_j d_j. Products of atoms are F32
// numbers multiplied and added in double. A vector that comes here for the first time has its
// factor made from the atoms it has, and stays.
//
// Among the candidates of the search the choice is made by F32 products. Where none stands clear of
// the search's error (kExactBelow), or the chosen atom lies within the span of those taken, the
// warp looks at all atoms in F32: met only where little is left to explain or atoms coincide. An
// atom within kPivotMin of the span cannot stand clear of the error later, so it is never taken on
// the fast way either.
#pragma once

#include "kernels/api/omp_encode.h"
#include "kernels/cuda/omp_lanes.cuh"
#include "kernels/cuda/omp_search.cuh"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {

inline constexpr int kExcludedWords = base::kAtomsMax / 32;
// |<r, d>| / ||r|| from which a candidate is surely the best, or within the search's error of it.
inline constexpr float kExactBelow = 4 * kSearchError;

// The dictionary.
struct OmpAtoms {
  const float* rows;  // [n_atoms, row_stride], norm 1
  int row_stride;
  int n_atoms;
  const __half* packed;  // [n_atoms, head_dim rounded up to 128], as in the file; null if not F16
  const float* norms;    // [n_atoms], of the packed rows; else 1

  template <int kParts>
  __device__ LanePart<kParts> Row(uint32_t atom) const {
    return LanePart<kParts>::Load(rows + atom * row_stride, row_stride);
  }
};

// Shared memory of one warp.
struct ExactScratch {
  double products[base::kSparsityMax + 2];
  uint32_t excluded[kExcludedWords];
};

// x scaled to norm 1.
template <int kParts>
__device__ LanePart<kParts> UnitVector(const float* x, int head_dim, double inverse_norm) {
  LanePart<kParts> part;
#pragma unroll
  for (int i = 0; i < 4 * kParts; ++i) {
    const int component = i / 4 * 128 + threadIdx.x % kWarp * 4 + i % 4;
    part.v[i] = component < head_dim ? static_cast<float>(x[component] * inverse_norm) : 0.0f;
  }
  return part;
}

// x - sum_j factor(j) * atom j of `taken`.
template <int kParts, typename Factor>
__device__ LanePart<kParts> Rest(const LanePart<kParts>& x, const OmpAtoms& atoms,
                                 const uint16_t* taken, int n, const Factor& factor) {
  LanePart<kParts> rest = x;
#pragma unroll 4
  for (int j = 0; j < n; ++j) {
    rest.Add(-factor(j), atoms.Row<kParts>(taken[j]));
  }
  return rest;
}

// In F32, and scaled to norm 1 in F16 for the search.
template <int kParts>
__device__ void StoreResidual(const OmpState& state, int vector, const LanePart<kParts>& residual,
                              float norm, float inverse) {
  residual.Store(state.residual + vector * (128 * kParts), 128 * kParts);
  if (threadIdx.x % kWarp == 0) state.residual_norm[vector] = norm;
  __half* to = state.halves + static_cast<int64_t>(vector) * state.search_dim;
#pragma unroll
  for (int r = 0; r < kParts; ++r) {
    const int i = r * 128 + threadIdx.x % kWarp * 4;
    if (i >= state.search_dim) continue;
    const __half2 pairs[2] = {
        __floats2half2_rn(residual.v[4 * r] * inverse, residual.v[4 * r + 1] * inverse),
        __floats2half2_rn(residual.v[4 * r + 2] * inverse, residual.v[4 * r + 3] * inverse)};
    *reinterpret_cast<uint2*>(to + i) = *reinterpret_cast<const uint2*>(pairs);
  }
}

__device__ inline OmpCandidate OwnCandidate(const OmpState& state, int vector) {
  static_assert(kSearchRanges * kSearchClasses == kWarp);
  return state.candidates[vector * kWarp + threadIdx.x % kWarp];
}

// The best of the search's candidates, one a lane, that are within its error of the largest, by F32
// products; the score keeps its sign, and is 0 where there is none. `own_taken`: an atom taken
// before, another in each lane, or -1.
template <int kParts>
__device__ OmpPick BestCandidate(const OmpCandidate& candidate, const OmpAtoms& atoms,
                                 const LanePart<kParts>& residual, int own_taken,
                                 LanePart<kParts>& best_row) {
  // Scores are -1 or at least 0: their bits are ordered as integers.
  const float largest =
      __int_as_float(__reduce_max_sync(kAllLanes, __float_as_int(candidate.score)));
  uint32_t near = __ballot_sync(kAllLanes, candidate.score >= largest - 2 * kSearchError);
  OmpPick pick{-1, -1};
  float signed_score = 0;
  do {
    const int first = __shfl_sync(kAllLanes, candidate.pair, __ffs(near) - 1);
    near &= near - 1;
    const LanePart<kParts> rows[2] = {atoms.Row<kParts>(min(first, atoms.n_atoms - 1)),
                                      atoms.Row<kParts>(min(first + 1, atoms.n_atoms - 1))};
    const float2 scores = WarpSumOfTwo(rows[0].DotShare(residual), rows[1].DotShare(residual));
    const bool may_first = !__any_sync(kAllLanes, own_taken == first) && first < atoms.n_atoms;
    const bool may_second =
        !__any_sync(kAllLanes, own_taken == first + 1) && first + 1 < atoms.n_atoms;
    const bool takes_second = may_second && (!may_first || fabsf(scores.y) > fabsf(scores.x));
    const float score = takes_second ? scores.y : scores.x;
    const int before = pick.atom;
    if (may_first || may_second) pick.Offer(fabsf(score), first + (takes_second ? 1 : 0));
    if (pick.atom == before) continue;
    signed_score = score;
#pragma unroll
    for (int i = 0; i < 4 * kParts; ++i) best_row.v[i] = takes_second ? rows[1].v[i] : rows[0].v[i];
  } while (near != 0);
  return {signed_score, pick.atom};
}

// One vector's pursuit, in a warp. All lanes call together; results are the same in all.
template <int kParts>
class ExactPursuit {
 public:
  using Part = LanePart<kParts>;

  __device__ ExactPursuit(const OmpState& state, const OmpAtoms& atoms, int vector,
                          ExactScratch& scratch, const Part& x)
      : state_(state),
        dictionary_(atoms),
        vector_(vector),
        scratch_(scratch),
        x_(x),
        lower_(state.factor + static_cast<int64_t>(vector) * state.factor_doubles()),
        inverse_pivots_(lower_ + state.lower_doubles()),
        y_(inverse_pivots_ + state.sparsity),
        atoms_(state.atoms + static_cast<int64_t>(vector) * state.atom_stride),
        coefs_(state.coefs + static_cast<int64_t>(vector) * state.sparsity) {}

  // The factor of the atoms that the fast way has taken, which are far from dependent.
  __device__ void TakeOver() {
    n_taken_ = state_.n_atoms[vector_];
    if (state_.exact[vector_] != 0) return;
    const int n = n_taken_;
    __syncwarp();
    for (n_taken_ = 0; n_taken_ < n;) {
      if (!AddToFactor(atoms_[n_taken_])) return;
    }
    if (threadIdx.x % kWarp == 0) state_.exact[vector_] = 1;
  }

  // Takes one more atom, or finds that there is none to take.
  __device__ void Step(float stop) {
    const int lane = threadIdx.x % kWarp;
    const Part residual = Part::Load(state_.residual + vector_ * (128 * kParts), 128 * kParts);
    const float norm = sqrtf(residual.Dot(residual));
    Part row;
    OmpPick pick = BestCandidate<kParts>(OwnCandidate(state_, vector_), dictionary_, residual,
                                         lane < n_taken_ ? atoms_[lane] : -1, row);
    pick.score = fabsf(pick.score);
    if (!(pick.score > kExactBelow * norm)) pick = BestOfAll(-1);
    while (true) {
      if (pick.atom < 0 || pick.score <= static_cast<float>(kScoreStop)) {
        if (lane == 0) state_.done[vector_] = 1;
        return;
      }
      if (!IsTaken(pick.atom) && AddToFactor(pick.atom)) break;
      pick = BestOfAll(pick.atom);
    }
    SolveAndStore(stop);
  }

 private:
  __device__ Part Row(int atom) const { return dictionary_.Row<kParts>(atom); }
  __device__ bool IsTaken(int atom) const {
    bool taken = false;
    for (int j = threadIdx.x % kWarp; j < n_taken_; j += kWarp) taken |= atoms_[j] == atom;
    return __any_sync(kAllLanes, taken);
  }

  // The best of all atoms but those taken, and those passed as `reject` since the step began (-1:
  // the step's first call). A lane looks at every 32nd atom.
  __device__ OmpPick BestOfAll(int reject) {
    const int lane = threadIdx.x % kWarp;
    __syncwarp();
    if (reject < 0 || !searched_all_) {
      for (int i = lane; i < kExcludedWords; i += kWarp) scratch_.excluded[i] = 0;
      __syncwarp();
      if (lane == 0) {
        for (int j = 0; j < n_taken_; ++j) Exclude(atoms_[j]);
      }
      searched_all_ = true;
    }
    if (lane == 0 && reject >= 0) Exclude(reject);
    __syncwarp();
    const auto* residual =
        reinterpret_cast<const float4*>(state_.residual + vector_ * (128 * kParts));
    OmpPick pick{-1, -1};
    for (int atom = lane; atom < dictionary_.n_atoms; atom += kWarp) {
      if ((scratch_.excluded[atom / 32] >> (atom % 32) & 1) != 0) continue;
      const auto* row = reinterpret_cast<const float4*>(
          dictionary_.rows + static_cast<int64_t>(atom) * dictionary_.row_stride);
      float score = 0;
      for (int i = 0; i < dictionary_.row_stride / 4; ++i) {
        const float4 d = row[i];
        const float4 r = residual[i];
        score = fmaf(d.x, r.x, fmaf(d.y, r.y, fmaf(d.z, r.z, fmaf(d.w, r.w, score))));
      }
      pick.Offer(fabsf(score), atom);
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
      const float score = __shfl_xor_sync(kAllLanes, pick.score, i);
      const int atom = __shfl_xor_sync(kAllLanes, pick.atom, i);
      if (atom >= 0) pick.Offer(score, atom);
    }
    return pick;
  }
  __device__ void Exclude(int atom) { scratch_.excluded[atom / 32] |= 1u << (atom % 32); }

  // False, and nothing changes, when the atom lies within kPivotMin of the span.
  __device__ bool AddToFactor(int atom) {
    const int lane = threadIdx.x % kWarp;
    const int k = n_taken_;
    double* products = scratch_.products;
    const Part row = Row(atom);
    __syncwarp();
    for (int j = 0; j < k; ++j) {
      const double product = WarpSum(row.DotShareDouble(Row(atoms_[j])));
      if (lane == 0) products[j] = product;
    }
    double pivot_squared = WarpSum(row.DotShareDouble(row));
    double y = WarpSum(row.DotShareDouble(x_));
    __syncwarp();
    for (int j = 0; j < k; ++j) {
      const double value = products[j] * inverse_pivots_[j];
      for (int i = j + 1 + lane; i < k; i += kWarp) products[i] -= Lower(i)[j] * value;
      pivot_squared -= value * value;
      y -= value * y_[j];
      __syncwarp();
      if (lane == 0) products[j] = value;
    }
    if (!(pivot_squared >= kPivotMin * kPivotMin)) return false;
    const double pivot = sqrt(pivot_squared);
    __syncwarp();
    double* new_row = lower_ + k * (k + 1) / 2;
    for (int j = lane; j < k; j += kWarp) new_row[j] = products[j];
    if (lane == 0) {
      new_row[k] = pivot;
      inverse_pivots_[k] = 1 / pivot;
      y_[k] = y / pivot;
      atoms_[k] = static_cast<uint16_t>(atom);
    }
    n_taken_ = k + 1;
    __syncwarp();
    return true;
  }
  __device__ const double* Lower(int i) const { return lower_ + i * (i + 1) / 2; }

  // Coefficients, residual and all that the next step needs.
  __device__ void SolveAndStore(float stop) {
    const int lane = threadIdx.x % kWarp;
    double* rest = scratch_.products;
    __syncwarp();
    for (int i = lane; i < n_taken_; i += kWarp) rest[i] = y_[i];
    __syncwarp();
    for (int i = n_taken_ - 1; i >= 0; --i) {
      const double c = rest[i] * inverse_pivots_[i];
      for (int j = lane; j < i; j += kWarp) rest[j] -= Lower(i)[j] * c;
      __syncwarp();
      if (lane == 0) rest[i] = c;
    }
    __syncwarp();
    for (int i = lane; i < n_taken_; i += kWarp) coefs_[i] = static_cast<float>(rest[i]);
    const Part residual = Rest<kParts>(x_, dictionary_, atoms_, n_taken_,
                                       [&](int j) { return static_cast<float>(rest[j]); });
    const float norm = sqrtf(residual.Dot(residual));
    StoreResidual(state_, vector_, residual, norm, norm > 0 ? 1 / norm : 0.0f);
    if (lane != 0) return;
    state_.n_atoms[vector_] = n_taken_;
    state_.done[vector_] = n_taken_ == state_.sparsity || norm <= stop ? 1 : 0;
  }

  const OmpState& state_;
  const OmpAtoms& dictionary_;
  const int vector_;
  ExactScratch& scratch_;
  const Part x_;
  double* lower_;
  double* inverse_pivots_;
  double* y_;
  uint16_t* atoms_;
  float* coefs_;
  int n_taken_ = 0;
  bool searched_all_ = false;
};

// Not inlined: it must not cost the fast way registers.
template <int kParts>
__device__ __noinline__ void ExactStep(const OmpState& state, const OmpAtoms& atoms, int vector,
                                       ExactScratch& scratch, const float* x, int head_dim,
                                       float stop) {
  const LanePart<kParts> unit = UnitVector<kParts>(x, head_dim, state.inverse_norm[vector]);
  ExactPursuit<kParts> pursuit(state, atoms, vector, scratch, unit);
  pursuit.TakeOver();
  pursuit.Step(stop);
}

}  // namespace lexico::kernels::cuda

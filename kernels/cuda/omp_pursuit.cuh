// The rest of OmpEncode: exact choice, least squares, residual, stored code. One warp a vector, a
// lane 4 components of every 128.
//
// As on the CPU (kernels/cpu/omp_pursuit.h): a Cholesky factor that grows by one row an atom, in
// double, L L^T = D_S D_S^T, L y = D_S x, L^T c = y; the residual is x - sum_j c_j d_j with the
// coefficients at hand. Products of atoms are F32 numbers multiplied and added in double.
//
// Among the candidates of the search the choice is made by F32 products. Where no candidate stands
// clear of the search's error (kExactBelow), or the chosen atom lies within the span of those
// taken, a warp looks at all atoms in F32: slow, exact, and met only where little is left to
// explain or atoms coincide. An atom within kPivotMin of the span cannot stand clear of the error
// later, so it is never taken on the fast way either.
#pragma once

#include <cuda_fp8.h>

#include <cmath>

#include "kernels/api/omp_encode.h"
#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/omp_lanes.cuh"
#include "kernels/cuda/omp_search.cuh"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {

inline constexpr int kPursuitWarps = 4;
// Blocks of StepKernel a multiprocessor: it waits for memory most of the time.
inline constexpr int kStepBlocks = 6;
inline constexpr int kExcludedWords = base::kAtomsMax / 32;
// |<r, d>| / ||r|| from which a candidate is surely the best, or within the search's error of it.
inline constexpr float kExactBelow = 4 * kSearchError;

// Shared memory of one warp, before its copy of the factor.
struct PursuitScratch {
  double products[base::kSparsityMax + 2];
  float residual[base::kHeadDimMax];
  uint32_t excluded[kExcludedWords];
};

inline size_t PursuitSharedBytes(const OmpState& state) {
  return kPursuitWarps * (sizeof(PursuitScratch) + state.factor_doubles() * sizeof(double));
}

// One vector's pursuit, in a warp. All lanes call together; results are the same in all.
template <int kParts>
class WarpPursuit {
 public:
  using Part = LanePart<kParts>;

  __device__ WarpPursuit(const OmpState& state, const float* rows, int n_atoms, int vector,
                         PursuitScratch& scratch, double* factor)
      : state_(state),
        rows_(rows),
        n_atoms_(n_atoms),
        vector_(vector),
        scratch_(scratch),
        lower_(factor),
        inverse_pivots_(factor + state.lower_doubles()),
        y_(inverse_pivots_ + state.sparsity),
        atoms_(state.atoms + static_cast<int64_t>(vector) * state.sparsity),
        coefs_(state.coefs + static_cast<int64_t>(vector) * state.sparsity),
        n_taken_(state.n_atoms[vector]) {}

  // x scaled to norm 1.
  __device__ static Part UnitVector(const float* x, int head_dim, double inverse_norm) {
    Part part;
#pragma unroll
    for (int i = 0; i < 4 * kParts; ++i) {
      const int component = i / 4 * 128 + threadIdx.x % kWarp * 4 + i % 4;
      part.v[i] = component < head_dim ? static_cast<float>(x[component] * inverse_norm) : 0.0f;
    }
    return part;
  }

  // Takes one more atom, or finds that there is none to take.
  __device__ void Step(const Part& x, float stop) {
    const int lane = threadIdx.x % kWarp;
    LoadFactor();
    const Part residual = Part::Load(
        state_.residual + static_cast<int64_t>(vector_) * state_.row_stride, state_.row_stride);
    const float norm = sqrtf(residual.Dot(residual));
    __syncwarp();
    OmpPick pick = BestCandidate(residual);
    if (!(pick.score > kExactBelow * norm)) pick = BestOfAll(residual, -1);
    while (true) {
      if (pick.atom < 0 || pick.score <= static_cast<float>(kScoreStop)) {
        if (lane == 0) state_.done[vector_] = 1;
        return;
      }
      if (AddToFactor(pick.atom, x)) break;
      pick = BestOfAll(residual, pick.atom);
    }
    SolveAndStore(x, stop);
  }

  // Writes residual = x - sum_j factor[j] * atom j and returns its norm.
  template <typename Factor>
  __device__ static float Residual(const Part& x, const uint16_t* atoms, int n, const float* rows,
                                   int stride, const Factor& factor, Part& rest) {
    rest = x;
#pragma unroll 4
    for (int j = 0; j < n; ++j) {
      rest.Add(-factor(j), Part::Load(rows + static_cast<int64_t>(atoms[j]) * stride, stride));
    }
    return sqrtf(rest.Dot(rest));
  }

 private:
  __device__ Part Row(int atom) const {
    return Part::Load(rows_ + static_cast<int64_t>(atom) * state_.row_stride, state_.row_stride);
  }
  // The parts of the factor that there are, between global and shared memory.
  __device__ void LoadFactor() {
    const double* from = Factor();
    const int lane = threadIdx.x % kWarp;
    for (int i = lane; i < n_taken_ * (n_taken_ + 1) / 2; i += kWarp) lower_[i] = from[i];
    from += state_.lower_doubles();
    for (int i = lane; i < n_taken_; i += kWarp) {
      inverse_pivots_[i] = from[i];
      y_[i] = from[state_.sparsity + i];
    }
  }
  __device__ void StoreNewRow() {
    double* to = Factor();
    const int k = n_taken_ - 1;
    const int first = k * (k + 1) / 2;
    for (int i = threadIdx.x % kWarp; i <= k; i += kWarp) to[first + i] = lower_[first + i];
    if (threadIdx.x % kWarp != 0) return;
    to += state_.lower_doubles();
    to[k] = inverse_pivots_[k];
    to[state_.sparsity + k] = y_[k];
  }
  __device__ double* Factor() const {
    return state_.factor + static_cast<int64_t>(vector_) * state_.factor_doubles();
  }
  __device__ bool IsTaken(int atom) const {
    bool taken = false;
    for (int j = threadIdx.x % kWarp; j < n_taken_; j += kWarp) taken |= atoms_[j] == atom;
    return __any_sync(kAllLanes, taken);
  }

  // The best of the search's candidates that are within its error of the largest.
  __device__ OmpPick BestCandidate(const Part& residual) const {
    static_assert(kSearchRanges * kSearchClasses == 32);
    const OmpCandidate candidate =
        state_.candidates[static_cast<int64_t>(vector_) * 32 + threadIdx.x % kWarp];
    const float largest = WarpMax(candidate.score);
    uint32_t near = __ballot_sync(kAllLanes, candidate.score >= largest - 2 * kSearchError);
    OmpPick pick{-1, -1};
    for (; near != 0; near &= near - 1) {
      const int pair = __shfl_sync(kAllLanes, candidate.pair, __ffs(near) - 1);
      for (int atom = pair; atom < min(pair + 2, n_atoms_); ++atom) {
        const float score = fabsf(residual.Dot(Row(atom)));
        if (!IsTaken(atom)) pick.Offer(score, atom);
      }
    }
    return pick;
  }

  // The best of all atoms but those taken, and those passed as `reject` since the step began (-1:
  // the step's first call). A lane looks at every 32nd atom.
  __device__ OmpPick BestOfAll(const Part& residual, int reject) {
    const int lane = threadIdx.x % kWarp;
    if (reject < 0 || !searched_all_) {
      for (int i = lane; i < kExcludedWords; i += kWarp) scratch_.excluded[i] = 0;
      residual.Store(scratch_.residual, state_.row_stride);
      __syncwarp();
      if (lane == 0) {
        for (int j = 0; j < n_taken_; ++j) Exclude(atoms_[j]);
      }
      searched_all_ = true;
    }
    if (lane == 0 && reject >= 0) Exclude(reject);
    __syncwarp();
    OmpPick pick{-1, -1};
    for (int atom = lane; atom < n_atoms_; atom += kWarp) {
      if ((scratch_.excluded[atom / 32] >> (atom % 32) & 1) != 0) continue;
      const auto* row =
          reinterpret_cast<const float4*>(rows_ + static_cast<int64_t>(atom) * state_.row_stride);
      float score = 0;
      for (int i = 0; i < state_.row_stride / 4; ++i) {
        const float4 d = row[i];
        const float4 r = reinterpret_cast<const float4*>(scratch_.residual)[i];
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
  __device__ bool AddToFactor(int atom, const Part& x) {
    const int lane = threadIdx.x % kWarp;
    const int k = n_taken_;
    double* products = scratch_.products;
    const Part row = Row(atom);
    // Several rows at once: their loads and their sums over the warp overlap.
    constexpr int kTogether = 4;
    for (int first = 0; first < k; first += kTogether) {
      double share[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        share[j] = row.DotShare(Row(atoms_[min(first + j, k - 1)]));
      }
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        share[j] = WarpSum(share[j]);
        if (lane == 0 && first + j < k) products[first + j] = share[j];
      }
    }
    double pivot_squared = WarpSum(row.DotShare(row));
    double y = WarpSum(row.DotShare(x));
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
  __device__ void SolveAndStore(const Part& x, float stop) {
    const int lane = threadIdx.x % kWarp;
    double* rest = scratch_.products;
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
    Part residual;
    const float norm = Residual(
        x, atoms_, n_taken_, rows_, state_.row_stride,
        [&](int j) { return static_cast<float>(rest[j]); }, residual);
    StoreNewRow();
    const bool done = n_taken_ == state_.sparsity || norm <= stop;
    StoreResidual(state_, vector_, residual, norm);
    if (lane == 0) {
      state_.n_atoms[vector_] = n_taken_;
      state_.done[vector_] = done ? 1 : 0;
    }
  }

 public:
  // In F32, and scaled to norm 1 in F16 for the search.
  __device__ static void StoreResidual(const OmpState& state, int vector, const Part& residual,
                                       float norm) {
    residual.Store(state.residual + static_cast<int64_t>(vector) * state.row_stride,
                   state.row_stride);
    const float inverse = norm > 0 ? 1 / norm : 0.0f;
    __half* to = state.halves + static_cast<int64_t>(vector) * state.search_dim;
#pragma unroll
    for (int r = 0; r < kParts; ++r) {
      const int i = r * 128 + threadIdx.x % kWarp * 4;
      if (i >= state.search_dim) continue;
      *reinterpret_cast<__half2*>(to + i) =
          __floats2half2_rn(residual.v[4 * r] * inverse, residual.v[4 * r + 1] * inverse);
      *reinterpret_cast<__half2*>(to + i + 2) =
          __floats2half2_rn(residual.v[4 * r + 2] * inverse, residual.v[4 * r + 3] * inverse);
    }
  }

 private:
  const OmpState& state_;
  const float* rows_;
  const int n_atoms_;
  const int vector_;
  PursuitScratch& scratch_;
  double* lower_;  // in shared memory, as the two below
  double* inverse_pivots_;
  double* y_;
  uint16_t* atoms_;
  float* coefs_;
  int n_taken_;
  bool searched_all_ = false;
};

// Norms, and the vectors as the first residuals. Rows of `halves` past the last vector become 0.
template <int kParts>
__global__ void BeginKernel(const __grid_constant__ OmpState state, const float* x, int head_dim,
                            int n_rows) {
  const int vector = blockIdx.x * kPursuitWarps + threadIdx.x / kWarp;
  if (vector >= n_rows) return;
  const int lane = threadIdx.x % kWarp;
  double norm = 0;
  LanePart<kParts> unit = {};
  if (vector < state.n_vectors) {
    const float* from = x + static_cast<int64_t>(vector) * head_dim;
    for (int i = lane; i < head_dim; i += kWarp) norm += static_cast<double>(from[i]) * from[i];
    norm = sqrt(WarpSum(norm));
    if (norm > 0 && isfinite(norm))
      unit = WarpPursuit<kParts>::UnitVector(from, head_dim, 1 / norm);
  }
  const bool done = !(norm > 0 && isfinite(norm));
  if (lane == 0) state.done[vector] = done ? 1 : 0;
  if (vector >= state.n_vectors) {
    __half* to = state.halves + static_cast<int64_t>(vector) * state.search_dim;
    for (int i = lane; i < state.search_dim; i += kWarp) to[i] = __half(0.0f);
    return;
  }
  WarpPursuit<kParts>::StoreResidual(state, vector, unit, 1.0f);
  if (lane == 0) {
    state.norm[vector] = norm;
    state.inverse_norm[vector] = 1 / norm;
    state.n_atoms[vector] = 0;
  }
}

template <int kParts>
__global__ void __launch_bounds__(kWarp* kPursuitWarps, kStepBlocks)
    StepKernel(const __grid_constant__ OmpState state, const float* x, int head_dim,
               const float* rows, int n_atoms, float stop) {
  extern __shared__ double shared_doubles[];
  const int warp = threadIdx.x / kWarp;
  const int vector = blockIdx.x * kPursuitWarps + warp;
  if (vector >= state.n_vectors || state.done[vector] != 0) return;
  auto* scratch = reinterpret_cast<PursuitScratch*>(shared_doubles) + warp;
  double* factor =
      reinterpret_cast<double*>(reinterpret_cast<PursuitScratch*>(shared_doubles) + kPursuitWarps) +
      warp * state.factor_doubles();
  const LanePart<kParts> unit = WarpPursuit<kParts>::UnitVector(
      x + static_cast<int64_t>(vector) * head_dim, head_dim, state.inverse_norm[vector]);
  WarpPursuit<kParts>(state, rows, n_atoms, vector, *scratch, factor).Step(unit, stop);
}

template <int kParts>
__global__ void StoreKernel(const __grid_constant__ OmpState state, const float* x, int head_dim,
                            const float* rows, uint16_t* atoms, uint8_t* coefs, float* rel_error,
                            unsigned long long* n_non_finite) {
  const int vector = blockIdx.x * kPursuitWarps + threadIdx.x / kWarp;
  if (vector >= state.n_vectors) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t place = static_cast<int64_t>(vector) * state.sparsity;
  const double norm = state.norm[vector];
  const bool finite = isfinite(norm);
  const int n = state.n_atoms[vector];
  for (int j = lane; j < state.sparsity; j += kWarp) {
    atoms[place + j] = j < n ? state.atoms[place + j] : 0;
    coefs[place + j] =
        j < n ? __nv_cvt_float_to_fp8(static_cast<float>(state.coefs[place + j] * norm),
                                      __NV_SATFINITE, __NV_E4M3)
              : 0;
  }
  if (!finite || norm == 0) {
    if (lane == 0) rel_error[vector] = finite ? 0.0f : NAN;
    if (lane == 0 && !finite && n_non_finite != nullptr) atomicAdd(n_non_finite, 1ull);
    return;
  }
  __syncwarp();
  LanePart<kParts> rest;
  const LanePart<kParts> unit = WarpPursuit<kParts>::UnitVector(
      x + static_cast<int64_t>(vector) * head_dim, head_dim, state.inverse_norm[vector]);
  const float error = WarpPursuit<kParts>::Residual(
      unit, state.atoms + place, n, rows, state.row_stride,
      [&](int j) {
        return static_cast<float>(E4m3PairToFloat(coefs[place + j]).x * state.inverse_norm[vector]);
      },
      rest);
  if (lane == 0) rel_error[vector] = error;
}

}  // namespace lexico::kernels::cuda

// The kernels of OmpEncode around the search: the beginning, one more atom for every vector, the
// stored codes. The search's own kernel is in omp_search.cuh, both in one in omp_fused.cuh.
#pragma once

#include <cuda_fp8.h>

#include <cmath>

#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/omp_exact.cuh"
#include "kernels/cuda/omp_pursuit.cuh"

namespace lexico::kernels::cuda {

inline constexpr int kPursuitWarps = 4;  // of a block

inline size_t PursuitSharedBytes() { return kPursuitWarps * sizeof(PursuitScratch); }

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
    if (norm > 0 && isfinite(norm)) unit = UnitVector<kParts>(from, head_dim, 1 / norm);
  }
  const bool done = !(norm > 0 && isfinite(norm));
  if (lane == 0) state.done[vector] = done ? 1 : 0;
  if (vector >= state.n_vectors) {
    __half* to = state.halves + static_cast<int64_t>(vector) * state.search_dim;
    for (int i = lane; i < state.search_dim; i += kWarp) to[i] = __half(0.0f);
    return;
  }
  StoreResidual(state, vector, unit, 1.0f, 1.0f);
  uint16_t* atoms = state.atoms + static_cast<int64_t>(vector) * state.atom_stride;
  for (int i = lane; i < state.atom_stride; i += kWarp) atoms[i] = 0;
  if (lane == 0) {
    state.norm[vector] = norm;
    state.inverse_norm[vector] = 1 / norm;
    state.n_atoms[vector] = 0;
    state.exact[vector] = 0;
  }
}

// One more atom for vectors first_vector and the next, in a warp.
template <int kParts, bool kPacked, int kCached, int kOwn>
__device__ void StepPair(const OmpState& state, const OmpAtoms& atoms, int first_vector,
                         PursuitScratch& scratch, const float* x, int head_dim, float stop) {
  if (first_vector >= state.n_vectors) return;
  const int half = threadIdx.x % kWarp / kHalfWarp;
  const int vector = min(first_vector + half, state.n_vectors - 1);
  const bool runs = vector == first_vector + half && state.done[vector] == 0;
  if (!__any_sync(kAllLanes, runs)) return;
  const bool fast = runs && state.exact[vector] == 0;
  const HalfWarpCandidates candidates(state, vector);
  PairPursuit<kParts, kPacked, kCached, kOwn> pursuit(state, atoms, vector, fast, scratch);
  const bool took = pursuit.Step(fast, candidates, stop);
  const uint32_t left = __ballot_sync(kAllLanes, runs && !took);
  for (int i = 0; i < 2; ++i) {
    if ((left >> (i * kHalfWarp) & 1) == 0) continue;
    ExactStep<kParts>(state, atoms, first_vector + i, scratch.exact,
                      x + static_cast<int64_t>(first_vector + i) * head_dim, head_dim, stop);
    __syncwarp();
  }
}

// Grid: (pairs of vectors / kPursuitWarps). kBlocks: of a multiprocessor.
template <int kParts, bool kPacked, int kCached, int kOwn, int kBlocks>
__global__ void __launch_bounds__(kWarp* kPursuitWarps, kBlocks)
    StepKernel(const __grid_constant__ OmpState state, const __grid_constant__ OmpAtoms atoms,
               const float* x, int head_dim, float stop) {
  extern __shared__ float4 shared[];
  const int warp = threadIdx.x / kWarp;
  StepPair<kParts, kPacked, kCached, kOwn>(state, atoms, (blockIdx.x * kPursuitWarps + warp) * 2,
                                           reinterpret_cast<PursuitScratch*>(shared)[warp], x,
                                           head_dim, stop);
}

// Codes in FP8 and their errors; coefficients before rounding where there is a place for them.
template <int kParts>
__global__ void StoreKernel(const __grid_constant__ OmpState state, const float* x, int head_dim,
                            const __grid_constant__ OmpAtoms dictionary, uint16_t* atoms,
                            uint8_t* coefs, float* coefficients, float* rel_error,
                            unsigned long long* n_non_finite) {
  const int vector = blockIdx.x * kPursuitWarps + threadIdx.x / kWarp;
  if (vector >= state.n_vectors) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t place = static_cast<int64_t>(vector) * state.sparsity;
  const uint16_t* taken = state.atoms + static_cast<int64_t>(vector) * state.atom_stride;
  const double norm = state.norm[vector];
  const bool finite = isfinite(norm);
  const int n = state.n_atoms[vector];
  for (int j = lane; j < state.sparsity; j += kWarp) {
    // Coefficients of rows as the file has them, but for the exact way.
    const float row_norm = j < n && state.exact[vector] == 0 ? dictionary.norms[taken[j]] : 1.0f;
    const float c = j < n ? static_cast<float>(state.coefs[place + j] * row_norm * norm) : 0.0f;
    atoms[place + j] = j < n ? taken[j] : 0;
    coefs[place + j] = j < n ? __nv_cvt_float_to_fp8(c, __NV_SATFINITE, __NV_E4M3) : 0;
    if (coefficients != nullptr) coefficients[place + j] = c;
  }
  if (!finite || norm == 0) {
    if (lane == 0) rel_error[vector] = finite ? 0.0f : NAN;
    if (lane == 0 && !finite && n_non_finite != nullptr) atomicAdd(n_non_finite, 1ull);
    return;
  }
  __syncwarp();
  const LanePart<kParts> unit = UnitVector<kParts>(x + static_cast<int64_t>(vector) * head_dim,
                                                   head_dim, state.inverse_norm[vector]);
  const LanePart<kParts> rest = Rest<kParts>(unit, dictionary, taken, n, [&](int j) {
    return static_cast<float>(E4m3PairToFloat(coefs[place + j]).x * state.inverse_norm[vector]);
  });
  const float error = sqrtf(rest.Dot(rest));
  if (lane == 0) rel_error[vector] = error;
}

}  // namespace lexico::kernels::cuda

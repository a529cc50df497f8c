// What OmpEncode keeps of a wave of vectors between its kernels. All vectors are scaled to norm 1;
// their norms are kept in double.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/dictionary.h"
#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {

// The search goes through the atoms in this many ranges of whole tiles.
inline constexpr int kSearchRanges = 8;
inline constexpr int kSearchClasses = 4;  // of one range; see omp_search.cuh

// The largest |<r, d>| among the atoms of one range and class, of the residual scaled to norm 1:
// atoms pair and pair + 1 of the dictionary.
struct OmpCandidate {
  float score;
  int pair;
};

struct OmpState {
  int n_vectors;
  int sparsity;
  int search_dim;   // of halves
  int atom_stride;  // of atoms: sparsity rounded up to 8, which are loaded together
  float* residual;  // [n_vectors, head_dim rounded up to 128]
  __half* halves;   // [n_vectors rounded up to a block of the search, search_dim]: residual, norm 1
  OmpCandidate* candidates;  // [n_vectors, kSearchRanges, kSearchClasses]
  double* norm;              // [n_vectors], of x
  double* inverse_norm;      // [n_vectors]
  double* factor;            // [n_vectors, factor_doubles()]: omp_pursuit.cuh or omp_exact.cuh
  float* residual_norm;      // [n_vectors]
  float* coefs;              // [n_vectors, sparsity], of the vector of norm 1
  uint16_t* atoms;           // [n_vectors, atom_stride], 0 past those taken
  int32_t* n_atoms;          // [n_vectors]
  uint8_t* exact;            // [n_vectors], whether omp_exact.cuh has taken over
  uint8_t* done;             // [n_vectors rounded up as halves]

  // Of one vector. Exact: the rows of L, 1 to sparsity numbers each, then 1 / L[i, i], then y.
  // Else the inverse of the Gram matrix in F32, which takes no more.
  __host__ __device__ int lower_doubles() const { return sparsity * (sparsity + 1) / 2; }
  __host__ __device__ int factor_doubles() const {
    return (lower_doubles() + 2 * sparsity + 1) / 2 * 2;
  }

  OmpState(WorkspaceCutter& cutter, int n, int sparsity, const Dictionary& dictionary);
};

}  // namespace lexico::kernels::cuda

// What OmpEncode keeps of a wave of vectors between its kernels. All vectors are scaled to norm 1;
// their norms are kept in double.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/dictionary.h"
#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {

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
  int row_stride;   // of residual, as of the dictionary's rows
  int search_dim;   // of halves
  float* residual;  // [n_vectors, row_stride]
  __half* halves;   // [n_vectors rounded up to a block of the search, search_dim]: residual, norm 1
  OmpCandidate* candidates;  // [n_vectors, kSearchRanges, kSearchClasses]
  double* norm;              // [n_vectors], of x
  double* inverse_norm;      // [n_vectors]
  double* factor;            // [n_vectors, factor_doubles()]
  float* coefs;              // [n_vectors, sparsity], of the vector of norm 1
  uint16_t* atoms;           // [n_vectors, sparsity]
  int32_t* n_atoms;          // [n_vectors]
  uint8_t* done;             // [n_vectors rounded up as halves]

  // Of one vector: the rows of L, 1 to sparsity numbers each, then 1 / L[i, i], then y.
  __host__ __device__ int lower_doubles() const { return sparsity * (sparsity + 1) / 2; }
  __host__ __device__ int factor_doubles() const { return lower_doubles() + 2 * sparsity; }

  OmpState(WorkspaceCutter& cutter, int n, int sparsity, const Dictionary& dictionary);
};

}  // namespace lexico::kernels::cuda

// Whether OMP finds the atoms that a vector was made of: synthetic sparse vectors, with and without
// noise.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"
#include "tools/eval/sweep/result_table.h"

namespace lexico::eval {

struct RecoveryOptions {
  std::vector<int64_t> sparsities = {1, 2, 4, 8, 12, 16, 24, 32};
  std::vector<double> noises = {0, 0.1};  // ||noise|| / ||sum of atoms||, on average
  int64_t n_vectors = 2000;               // of each row
  uint64_t seed = 1;
};

// Unit atoms of normal numbers, [n_atoms, head_dim].
std::vector<float> RandomAtoms(int64_t n_atoms, int64_t head_dim, uint64_t seed);

// A vector is a sum of `sparsity` different atoms chosen at random, with coefficients of random
// sign and a magnitude uniform in 1 to 2, and noise of normal numbers; OMP is given its sparsity.
// Columns: sparsity, noise, exact_support (share of vectors whose atoms are all found),
// atoms_found (mean share), rel_error (to the noisy vector, FP8 coefficients). dictionary
// [n_atoms, head_dim] F16 or F32. InvalidArgument for a sparsity over what the dictionary allows.
absl::StatusOr<ResultTable> SweepRecovery(const RecoveryOptions& options,
                                          kernels::TensorView dictionary,
                                          const kernels::Stream& stream);

}  // namespace lexico::eval

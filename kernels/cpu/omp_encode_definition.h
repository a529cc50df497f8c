// Definition of OmpEncode: one vector at a time, everything in double, in the order of the formula
// in kernels/api/omp_encode.h. Do not make it faster: it is what "correct" means.
#pragma once

#include <vector>

#include "kernels/api/omp_encode.h"

namespace lexico::kernels::definition {

// One choice of the pursuit.
struct OmpPick {
  int atom = 0;
  double score = 0;      // |<r, d_atom>| when it was chosen
  double runner_up = 0;  // the same of the best other atom, 0 if there was none
};

struct OmpPursuit {
  std::vector<OmpPick> picks;        // in greedy order
  std::vector<double> coefficients;  // least squares over the picks, before rounding to FP8
  double residual_norm = 0;          // ||r|| with those coefficients
};

// The pursuit of one finite vector x [head_dim].
OmpPursuit Pursue(const float* x, const PreparedDictionary& dictionary, int sparsity,
                  double error_threshold);

// The same of x [head_dim] in double, among the atoms that are not excluded [n_atoms].
OmpPursuit PursueAmong(const std::vector<double>& x, const PreparedDictionary& dictionary,
                       std::vector<bool> excluded, int sparsity, double error_threshold);

void OmpEncode(const OmpEncodeArgs& args);

}  // namespace lexico::kernels::definition

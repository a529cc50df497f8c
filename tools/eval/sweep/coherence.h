// How alike the atoms of a dictionary are.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/api/stream.h"

namespace lexico::eval {

// Of each of the unit atoms [n_atoms, head_dim] the largest |<d_i, d_j>| with another one; the
// largest of all is the dictionary's mutual coherence mu. 0 for a single atom. REQUIRES: a CPU
// stream
std::vector<float> AtomCoherence(std::span<const float> atoms, int head_dim,
                                 const kernels::Stream& stream);

// OMP finds the atoms of every noiseless vector of less than (1 + 1/mu) / 2 of them (Tropp, "Greed
// is good", IEEE Transactions on Information Theory 50, 2004). What it finds of most is far more.
double GuaranteedSparsity(double mutual_coherence);

// How many directions atoms fill: tr(C)^2 / tr(C^2) of C = D^T D, head_dim where they lie evenly
// around, 1 where they are one line.
double EffectiveDim(std::span<const float> atoms, int head_dim);

}  // namespace lexico::eval

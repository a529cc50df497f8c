// One step of dictionary learning: better atoms for vectors whose codes are given.
//
// The update of K-SVD (Aharon, Elad, Bruckstein 2006) in the approximate form of Rubinstein,
// Zibulevsky and Elad (2008), on a mini-batch, with a memory of the batches before. Atom after
// atom, with r_i the residual of vector i, I the vectors whose code holds atom d, c_i its
// coefficient there, and w the weight of what the atom has learnt before:
//
//   g = sum_I c_i r_i
//   d' = normalise((sum_I c_i^2 + w) d + g)
//   c_i' = <r_i + c_i d, d'>,  r_i' = r_i + c_i d - c_i' d'      (for the atoms after it)
//
// With w = 0 and one batch this is the closed form; w makes it a running mean over batches, so an
// atom moves less the more it has seen.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lexico::train_dictionary {

struct Atoms {
  int n_atoms = 0;
  int head_dim = 0;
  std::vector<float> rows;      // [n_atoms, head_dim], unit rows
  std::vector<float> weights;   // [n_atoms], w
  std::vector<int64_t> n_uses;  // [n_atoms], codes that held the atom since it was last zeroed

  std::span<float> row(int atom) {
    return {rows.data() + static_cast<int64_t>(atom) * head_dim, static_cast<size_t>(head_dim)};
  }
};

// Codes of n vectors as OmpEncode writes them, coefficients widened. A coefficient of 0 is no use.
struct Codes {
  int sparsity = 0;
  std::vector<uint16_t> atoms;  // [n, sparsity]
  std::vector<float> coefs;     // [n, sparsity]
};

// Updates `atoms` in place; their weights become memory * (w + sum c^2). x [n, head_dim] becomes
// the residual. Deterministic: one thread, atoms in order. Cost: about 8 * head_dim * sparsity
// operations a vector.
void UpdateAtoms(const Codes& codes, float memory, std::span<float> x, Atoms& atoms);

}  // namespace lexico::train_dictionary

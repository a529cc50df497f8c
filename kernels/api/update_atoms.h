// Better atoms for vectors whose codes are given: the learning half of a step of dictionary
// training, as OmpEncode is its coding half.
//
// With r_i = x_i - sum_j c_ij d_ij the residual of vector i, e_i its error relative to x_i, I the
// vectors whose code holds atom d, c_i its coefficient there, and w the weight of what the atom has
// learnt before:
//
//   u_i = f / max(e_i, f)
//   g = sum_I u_i c_i r_i,  W = w + sum_I u_i c_i^2
//   d' = normalise(W d + g),  w' = memory * W,  n' = n + |I|
//
// With w = 0 and u_i = 1 it is the best direction for the residuals that the atom's vectors have
// without it (approximate K-SVD: Aharon, Elad, Bruckstein 2006; Rubinstein, Zibulevsky, Elad 2008),
// but all atoms turn at once, on the same residuals; w makes it a running mean over batches, and
// u_i, of vectors of one norm, makes the sum of errors the loss, not that of their squares
// (iteratively reweighted least squares). An atom that no code holds, or whose W d + g vanishes,
// keeps its direction. A coefficient of 0 is no use.
//
// Cost: 4 * head_dim * sparsity operations a vector.
#pragma once

#include <cstdint>

#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

// Vectors of one call, at most.
inline constexpr int64_t kUpdateVectorsMax = int64_t{1} << 20;
// f: vectors that are coded better than this count no more for it.
inline constexpr float kUpdateErrorFloor = 0.05F;
// Below this norm W d + g is rounding.
inline constexpr double kUpdateNormMin = 1e-12;

struct UpdateAtomsArgs {
  // Codes as OmpEncode writes them, of these vectors with these rows.
  TensorView x;      // [n_vectors, head_dim]  F32, of norms up to 256 (a GPU sums in fixed point)
  TensorView atoms;  // [n_vectors, sparsity]  U16, below n_atoms
  TensorView coefs;  // [n_vectors, sparsity]  U8, FP8 E4M3
  TensorView rel_error;  // [n_vectors]        F32
  float memory = 0;      // 0 .. 1

  // Updated in place.
  MutableTensorView rows;     // [n_atoms, head_dim]  F32, d: unit rows
  MutableTensorView weights;  // [n_atoms]            F32, w
  MutableTensorView n_uses;   // [n_atoms]            I32, n
};

// Deterministic: the same bits on every run on one device, whatever the number of threads; a CPU's
// and a GPU's differ by the rounding of their sums. On a GPU in the workspace, 8 * n_atoms *
// (head_dim + 1) bytes.
void UpdateAtoms(const UpdateAtomsArgs& args, const Stream& stream);

}  // namespace lexico::kernels

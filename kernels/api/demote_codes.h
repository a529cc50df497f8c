// The codes of fewer atoms, from codes alone: what OmpEncode at a lower sparsity would have given,
// without the vectors and without a search.
//
// For a vector x whose code is x^ = sum_S c_j d_j (+ residual), with least squares over the atoms
// S: x - x^ is orthogonal to all of S, so <x, d> = <x^, d> for every d in S. The first picks of the
// pursuit of x are in S, and among S the pursuit of x^ scores as that of x does. So
//
//   the pursuit of omp_encode.h on x^, whose atoms are those of its code with coefficients not 0
//
// takes the atoms that the pursuit of x took first, and solves for the same coefficients. What is
// different: the stored coefficients were rounded, so x^ is off by that much inside the span of S;
// a pick changes only where two atoms are as close as that. Of a code with a residual x^ includes
// it, and the residual's own rounding is not orthogonal to S: there the result approximates.
//
// Guards and stops are those of omp_encode.h with x^ in the place of x; a code that is NaN gives no
// atoms and error NaN. Codes may come in any order (code_layout.h); the picks come in greedy order.
//
// Cost: a vector of n atoms multiplies n rows with x^ and up to n with each atom it takes: some
// n * (sparsity + 1) * head_dim multiply-adds, n_atoms / n times fewer than a search over all.
#pragma once

#include <cstdint>

#include "kernels/api/code_layout.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

struct DemoteCodesArgs {
  // Inputs. Coded pages of one layer; on a GPU of the paper's code only, as Reconstruct takes them.
  const uint8_t* const* pages = nullptr;  // [n_pages]
  int64_t n_pages = 0;
  int64_t page_offset = 0;  // bytes added to every page pointer
  PageLayout layout;        // of these pages; with atoms
  bool value = false;       // which half of the pages
  const PreparedDictionary* dictionary = nullptr;
  int sparsity = 0;  // of the result, 1 .. the layout's

  // Outputs, overwritten, as OmpEncode's: n_vectors in the order [page, token, head], so that
  // PackCodes or QuantizeCodes stores them.
  MutableTensorView atoms;      // [n_vectors, sparsity]  U16
  MutableTensorView coefs;      // [n_vectors, sparsity]  U8, FP8 E4M3
  MutableTensorView rel_error;  // [n_vectors] F32: ||x^ - new x^|| / ||x^||, coefficients rounded
  MutableTensorView coefficients;  // [n_vectors, sparsity]  F32, before rounding; CPU only, may be
                                   // left out
};

// Deterministic: a vector's result follows from its code alone. CHECK-fails on a malformed
// argument.
void DemoteCodes(const DemoteCodesArgs& args, const Stream& stream);

}  // namespace lexico::kernels

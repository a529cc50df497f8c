// What a pursuit found, and what it left, in the bits of a profile: into coded pages.
//
//   atoms, 8 bits   c'_j = FP8(c_j u)                      u = 1, or of an unbiased code without a
//   atoms, 4 bits   scale = fp16(-m / 8 u), m the coefficient of largest magnitude, signed;
//                   c'_j = scale * n_j, n_j = round(c_j / fp16(-m / 8)) in -8 .. 7
//                                                          residual <x, x> / <x, sum c'_j d_j>,
//                                                          at least 1 and at most 1.5
//   residual        r = x - sum c'_j d_j, z = R r, l_i the level nearest to z_i / rms(z);
//                   scale = fp16(<z, l> / <l, l>), the least error, or, unbiased,
//                   fp16(<z, z> / <z, l>), so that <r^, r> = <r, r>
//
// with R, the levels and their bits as in residual.h. FP16 scales saturate at +-65504. A zero
// vector, or a zero residual, has scale 0 and adds exactly nothing, as does an unused atom place.
// A vector with a NaN or an infinity is stored as zero, its error is NaN, and it is counted: the
// caller must fail the sequence.
//
// The paper's code goes through rows.h PackCodes, which needs no coefficients but those stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/api/code_layout.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

struct QuantizeCodesArgs {
  PageLayout layout;
  bool value = false;                              // the half: keys or values
  const PreparedDictionary* dictionary = nullptr;  // not read without atoms
  // Vectors in the order [page, token, head], n_vectors = n_pages * page_tokens * n_kv_heads, and
  // what OmpEncode made of them: atoms, and coefficients as they were before rounding.
  TensorView x;                     // [n_vectors, head_dim] F32
  TensorView atoms;                 // [n_vectors, sparsity] U16; not read without atoms
  TensorView coefficients;          // [n_vectors, sparsity] F32; likewise
  uint8_t* const* pages = nullptr;  // [n_pages]
  size_t page_offset = 0;           // bytes from pages[i] to the payload
  float* page_error = nullptr;      // [n_pages], overwritten: the mean of ||x - x^|| / ||x||, 0 for
                                    // x = 0, added up in double and in order
  int64_t* n_non_finite = nullptr;  // added to
};

// Deterministic, and a page's bytes follow from its own vectors. Arrays lie in the stream's memory,
// pages on a GPU aligned to 64 bytes with page_offset added. There the codes of a vector take the
// order in which attention finds its look-ups soonest (kernels/cuda/code_order.h), else OMP's.
void QuantizeCodes(const QuantizeCodesArgs& args, const Stream& stream);

}  // namespace lexico::kernels

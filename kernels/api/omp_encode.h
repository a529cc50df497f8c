// Sparse decomposition by orthogonal matching pursuit (OMP), the coding step of Lexico (arXiv
// 2412.08890, section 3.2).
//
// For a vector x and unit atoms d_a:
//   r = x; S = {}
//   repeat until |S| = sparsity or ||r|| <= error_threshold * ||x||:
//     a = argmax over atoms not in S of |<r, d_a>|          (the smallest index wins a tie)
//     S = S + a;  c = argmin ||x - sum_S c_j d_j||;  r = x - sum_S c_j d_j
//   coefficients are rounded to FP8 E4M3, to nearest even, magnitudes over 448 become 448
//
// Guards (each is a case met on real data, see docs/ARCHITECTURE.md "coding"):
//   - an atom is never taken twice; an atom that adds nothing new to S (its distance to the span of
//   S
//     is below kPivotMin) is skipped for good, so duplicate atoms do not divide by zero
//   - the pursuit stops when ||r|| <= kResidualStop * ||x||: nothing is left to explain; and when
//   no
//     atom that may still be chosen has |<r, d_a>| > kScoreStop * ||x||: the rest lies outside
//     their span, so further atoms would be picked by rounding
//   - x = 0: no atoms, error 0
//   - x with NaN or infinity: no atoms, error NaN, and it is counted in n_non_finite; the caller
//   must
//     fail the sequence, because nothing true can be stored
// Unused places are (atom 0, coefficient 0).
//
// rel_error is ||x - x^|| / ||x|| with the coefficients as stored, i.e. after rounding; 0 for x =
// 0.
#pragma once

#include <cstdint>

#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

// Below this distance from the span of the chosen atoms a unit atom counts as contained in it: its
// coefficient would amplify FP32 rounding (6e-8) a thousandfold.
inline constexpr double kPivotMin = 1e-3;
// ||r|| / ||x|| at which only FP32 rounding is left.
inline constexpr double kResidualStop = 1e-6;
// |<r, d_a>| / ||x|| at which a projection is FP32 rounding of a dot product of head_dim terms.
inline constexpr double kScoreStop = 1e-6;

struct OmpEncodeArgs {
  // Inputs.
  TensorView x;  // [n_vectors, head_dim]                        F32
  const PreparedDictionary* dictionary = nullptr;
  int sparsity = 0;           // 1 .. kSparsityMax, at most head_dim
  float error_threshold = 0;  // delta of the paper; 0: always `sparsity` atoms

  // Outputs, overwritten. Row i of each belongs to x[i].
  MutableTensorView atoms;      // [n_vectors, sparsity]           U16
  MutableTensorView coefs;      // [n_vectors, sparsity]           U8, FP8 E4M3
  MutableTensorView rel_error;  // [n_vectors]                     F32
  // The same coefficients before rounding, for other forms than FP8 (quantize_codes.h). May be left
  // out.
  MutableTensorView coefficients;   // [n_vectors, sparsity]           F32
  int64_t* n_non_finite = nullptr;  // added to; may be null; on a GPU in its memory
};

// Deterministic: the same bits for the same x whatever the batch around it and the number of
// threads. Cost per vector: sparsity matrix-vector products with D or its Gram matrix; see
// docs/performance.md.
void OmpEncode(const OmpEncodeArgs& args, const Stream& stream);

// FP8 E4M3FN <-> float, the arithmetic of the stored coefficients. Round to nearest even,
// saturating at 448; NaN encodes as 0x7f.
uint8_t FloatToE4m3(float value);
float E4m3ToFloat(uint8_t bits);

}  // namespace lexico::kernels

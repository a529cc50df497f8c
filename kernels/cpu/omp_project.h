// Products of vectors with all atoms in 16 bits.
//
// Scores are integers in units of 1 / kScoreOne of the vector's scale. r and D are rounded to 16
// bits, each off by at most sqrt(head_dim) / 2 in the norm (of 32767), so by Cauchy-Schwarz the
// product is off by at most sqrt(head_dim) / 2 * kScoreOne / 32767 * 2 = sqrt(head_dim) / 2;
// rounding adds 1. The 32-bit sums wrap around on the way; the last one fits, because
// |<r, d>| <= ||r||.
#pragma once

#include <cstdint>

#include "kernels/cpu/dictionary.h"

namespace lexico::kernels::cpu {

// A score of 1: the product of two vectors of norm 32767, shifted right by 16.
inline constexpr float kScoreOne = kQuantizedOne * kQuantizedOne / 65536.0f;

// to [2 * n_pairs] = round(vector * 32767 / norm); the vector is [row_stride], zero-padded.
void Quantize(const Dictionary& dictionary, const float* vector, float norm, int16_t* to);

// Signed scores of quantized vectors [n_vectors, 2 * n_pairs] into scores [n_vectors,
// padded_atoms]. A panel of 8 KiB stays in L1 for all vectors, so 1 MiB of D is read once a call:
// callers pass some 24 vectors, which at 128 components take 6 KiB.
void ProjectBlock(const Dictionary& dictionary, const int16_t* vectors, int n_vectors,
                  int16_t* scores);
float ProjectionErrorBound(int head_dim);

}  // namespace lexico::kernels::cpu

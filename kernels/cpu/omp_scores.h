// The search step of the pursuit: |<r, d_a>| of all atoms in 16-bit arithmetic, with a bound on the
// error, so that only the few atoms that could be the best are looked at in FP32.
//
// Scores are integers in units of 1 / kScoreOne of the vector's scale. The bounds, in those units:
//
//   projection  r and D are rounded to 16 bits, each off by at most sqrt(head_dim) / 2 in the norm
//               (of 32767), so by Cauchy-Schwarz the product is off by at most
//               sqrt(head_dim) / 2 * kScoreOne / 32767 * 2 = sqrt(head_dim) / 2; rounding adds 1
//   Gram term   factor rounded (1/2, times |G| <= 1), product rounded (1/2), entry of G rounded
//               (at most 1 of 2^15, times the factor): 1 + |factor| / 2^15
//
// The 16-bit sums wrap around on the way; the last one fits, because |<r, d>| <= ||r||.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/dictionary.h"

namespace lexico::kernels::cpu {

// A score of 1: the product of two vectors of norm 32767, shifted right by 16.
inline constexpr float kScoreOne = kQuantizedOne * kQuantizedOne / 65536.0f;

// Places of `maxima` kept for one chunk: one vector of int16 on the widest instruction set.
inline constexpr int kMaximaPerChunk = 32;

// |scores| of all atoms of a dictionary, and for each chunk a vector whose largest element is the
// chunk's largest score.
struct ScoreBuffer {
  explicit ScoreBuffer(const Dictionary& dictionary);

  hwy::AlignedFreeUniquePtr<int16_t[]> values;  // [padded_atoms]
  hwy::AlignedFreeUniquePtr<int16_t[]> maxima;  // [n_chunks, kMaximaPerChunk]
};

// Vectors that ProjectBlock takes together at most: 24 quantized vectors of 128 are 6 KiB, which
// leave L1 to a panel; 1 MiB of D is then read once for 24 vectors.
inline constexpr int kBlockVectorsMax = 24;

// to [2 * n_pairs] = round(vector * 32767 / norm); the vector is [row_stride], zero-padded.
void Quantize(const Dictionary& dictionary, const float* vector, float norm, int16_t* to);

// Signed scores of n_vectors <= kBlockVectorsMax quantized vectors [n_vectors, 2 * n_pairs] into
// scores [n_vectors, padded_atoms].
void ProjectBlock(const Dictionary& dictionary, const int16_t* vectors, int n_vectors,
                  int16_t* scores);
float ProjectionErrorBound(int head_dim);

// buffer = |base - sum_j factors[j] * gram_rows[j] / 2^15| with its maxima; returns the largest.
int GramScores(const Dictionary& dictionary, const int16_t* base, const int16_t* const* gram_rows,
               const int16_t* factors, int n_terms, ScoreBuffer& buffer);

// Atoms a < n_atoms with a score of at least `least`, ascending.
void CollectCandidates(const Dictionary& dictionary, const ScoreBuffer& buffer, int least,
                       std::vector<uint16_t>& candidates);

// Recomputes the maxima after values were changed; returns the largest.
int RefreshMaxima(const Dictionary& dictionary, ScoreBuffer& buffer);

// gram [n_atoms, padded_atoms] as dictionary.h describes it.
void BuildGram(const Dictionary& dictionary, int threads, int16_t* gram);

}  // namespace lexico::kernels::cpu

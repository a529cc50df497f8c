// The Gram search: <r, d_a> = <x, d_a> - sum_j c_j <d_j, d_a>, from the products of x with all
// atoms and one row of the Gram matrix G = D D^T for each chosen atom.
//
// G is kept in 8 bits, because its rows come from the last cache or from memory: 16 MiB at 4096
// atoms, 4 KiB a row. Two entries are one word, so made that the word itself, as 16 bits, is the
// first entry and the word shifted left by 8 the second, both in units of 1 / kGramOne: the low
// byte is the second entry rounded, the high byte rounds the first one minus the low byte. So each
// is off by half a high byte, 128, and what the 16-bit products were off that G is made of.
//
// Bound of a term factor * entry, in units of the scores: factor rounded (1/2, times |G| <= 1),
// product rounded (1/2), entry off by GramError / kGramOne.
#pragma once

#include <cstdint>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/omp_scores.h"

namespace lexico::kernels::cpu {

inline constexpr float kGramOne = 127 * 256;

// How far an entry may be off, in units of 1.
float GramError(int head_dim);

// One word for two atoms: word i of chunk c of a row belongs to atoms c * kChunkAtoms + i and
// c * kChunkAtoms + kChunkAtoms / 2 + i.
//   gram [n_atoms, padded_atoms / 2]
void BuildGram(const Dictionary& dictionary, int threads, int16_t* gram);

// A chosen atom's row of G and the factor of its entries, times kFactorOne / kGramOne.
struct GramTerm {
  const int16_t* row = nullptr;
  int32_t factors = 0;  // the 16-bit factor twice: 32 bits are broadcast faster
};
inline constexpr float kFactorOne = 32768;

inline int32_t TwiceFactor(int16_t factor) {
  return static_cast<int32_t>(static_cast<uint16_t>(factor) * 0x10001u);
}

// Sets the values of `scores`, which is not interleaved, to base - sum_j factor_j * row_j,
// [padded_atoms], and their maxima.
void GramScores(const Dictionary& dictionary, const Scores& base, const GramTerm* terms,
                int n_terms, const Scores& scores);

}  // namespace lexico::kernels::cpu

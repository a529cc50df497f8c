// What a search over all atoms hands to the pursuit: <r, d_a> of every atom in 16 bits, with a
// bound on the error, so that only the few atoms that could be the best are looked at in FP32.
//
// Three searches make them: omp_bytes.h (8-bit products), omp_project.h (16-bit products) and
// omp_gram.h (rows of the Gram matrix). Each header derives its bound.
//
// Whoever makes scores has them in registers, so it also keeps the largest of every group of atoms:
// candidates are then found in 2 KiB of maxima at 4096 atoms instead of 8 KiB of scores.
#pragma once

#include <cstdint>

#include "kernels/cpu/dictionary.h"

namespace lexico::kernels::cpu {

// Atoms g * kGroupAtoms and the following are group g, as are maxima g * kGroupMaxima and the
// following. Which atoms of its group a maximum covers is up to whoever makes the scores.
inline constexpr int kGroupAtoms = 128;
inline constexpr int kGroupMaxima = 32;
static_assert(kChunkAtoms % kGroupAtoms == 0);

// Where scores are: value(a) is <r, d_a> * scale within `error`, and those of atoms past n_atoms
// are 0. -2^15 is not among them. Groups of several vectors may alternate: a panel's products with
// many vectors then go to a few pages, not to a page for each (Intel's first TLB has 16 for
// stores).
struct Scores {
  int16_t* group(size_t g) const { return values + g * kGroupAtoms * interleaved; }
  int16_t* group_maxima(size_t g) const { return maxima + g * kGroupMaxima * interleaved; }
  int16_t& value(int atom) const { return group(atom / kGroupAtoms)[atom % kGroupAtoms]; }

  int16_t* values = nullptr;  // [n_groups, interleaved, kGroupAtoms], from this vector's on
  int16_t* maxima = nullptr;  // [n_groups, interleaved, kGroupMaxima]: of magnitudes
  int interleaved = 1;        // vectors
  float scale = 0;
  float error = 0;
};

inline size_t GroupsOf(const Dictionary& dictionary) {
  return static_cast<size_t>(dictionary.padded_atoms()) / kGroupAtoms;
}

// Sets the maxima to those of the values.
void FindMaxima(const Dictionary& dictionary, const Scores& scores);

// The atoms that could be the best.
struct Candidates {
  int n = 0;
  int largest = 0;  // of all magnitudes
  int least = 0;    // magnitude of a candidate
};

// Atoms a < n_atoms with |value| >= least = max(0, largest - 2 error), ascending, to atoms
// [n_atoms + 1].
Candidates FindCandidates(const Dictionary& dictionary, const Scores& scores, uint16_t* atoms);

}  // namespace lexico::kernels::cpu

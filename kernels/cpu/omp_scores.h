// What a search over all atoms hands to the pursuit: <r, d_a> of every atom in 16 bits, with a
// bound on the error, so that only the few atoms that could be the best are looked at in FP32.
//
// Three searches make them: omp_bytes.h (8-bit products), omp_project.h (16-bit products) and
// omp_gram.h (rows of the Gram matrix). Each header derives its bound.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/dictionary.h"

namespace lexico::kernels::cpu {

// values[a] is <r, d_a> * scale within `error`; those of atoms past n_atoms are 0.
struct Scores {
  int16_t* values = nullptr;  // [padded_atoms]
  int largest = 0;            // of the magnitudes
  float scale = 0;
  float error = 0;
};

// The largest |value| of values [padded_atoms]. -2^15 must not be among them.
int LargestMagnitude(const Dictionary& dictionary, const int16_t* values);

// Atoms a < n_atoms with |value| >= least, ascending.
void CollectCandidates(const Dictionary& dictionary, const int16_t* values, int least,
                       std::vector<uint16_t>& candidates);

}  // namespace lexico::kernels::cpu

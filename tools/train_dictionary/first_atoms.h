// Atoms of a vector and noise: what a dictionary begins with, and what an atom that no code holds
// becomes.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "tools/train_dictionary/atoms.h"
#include "tools/train_dictionary/vector_set.h"

namespace lexico::train_dictionary {

// The direction of `vector`, not zero, and noise of half its length: no atom is a copy of another,
// however often a vector occurs in the data. The noise is number `index` of `seed`.
void AtomFrom(std::span<const float> vector, uint64_t seed, uint64_t index, std::span<float> row);

// n_atoms of vectors from all over the set. InvalidArgument where fewer of its vectors are not
// zero.
absl::StatusOr<Atoms> FirstAtoms(const VectorSet& set, int dictionary, int n_atoms, uint64_t seed);

}  // namespace lexico::train_dictionary

// What the atoms of a model's dictionaries are like: how alike, which directions they fill, and,
// given vectors, how often codes take them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/api/stream.h"
#include "tools/eval/sweep/result_table.h"

namespace lexico::eval {

struct AtomsOfOne {
  std::string name;  // "layers.3.k"
  int head_dim = 0;
  std::vector<float> rows;       // [n_atoms, head_dim], unit rows
  std::vector<float> coherence;  // [n_atoms], coherence.h
  std::vector<int64_t> uses;     // [n_atoms], by codes of given vectors; empty without

  int64_t n_atoms() const { return static_cast<int64_t>(rows.size()) / head_dim; }
};

// Of safetensors `path`: layers.L.k and layers.L.v, in the order of layers; all there are. NotFound
// where the file has none; errors name the tensor.
absl::StatusOr<std::vector<AtomsOfOne>> ReadAtoms(const std::string& path,
                                                  const kernels::Stream& stream);

// Codes vectors [n, head_dim] and counts. InvalidArgument where the sparsity is more than the
// dictionary allows.
absl::Status CountUses(const std::vector<float>& vectors, int64_t sparsity,
                       const kernels::Stream& stream, AtomsOfOne* atoms);

// A row a dictionary: dictionary, n_atoms, coherence_mean, coherence_max, near_copies (atoms with
// another one at .99 or more), effective_dim; with uses also unused (share of the atoms),
// effective_atoms (e to the entropy of uses), top_1_percent (share of all uses by the most used
// hundredth).
ResultTable AtomsTable(const std::vector<AtomsOfOne>& dictionaries);

// Of every dictionary its name, and per atom coherence and uses; tools/eval/plot_atoms.py reads it
// beside the dictionary's file.
std::string AtomsJson(const std::string& path, const std::vector<AtomsOfOne>& dictionaries);

}  // namespace lexico::eval

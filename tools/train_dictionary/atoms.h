// The atoms of a dictionary in training, in host memory: what training begins with, goes on from
// and ends with.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lexico::train_dictionary {

struct Atoms {
  int n_atoms = 0;
  int head_dim = 0;
  std::vector<float> rows;     // [n_atoms, head_dim], unit rows
  std::vector<float> weights;  // [n_atoms], of what they have learnt (kernels/api/update_atoms.h)

  std::span<float> row(int atom) {
    return {rows.data() + static_cast<int64_t>(atom) * head_dim, static_cast<size_t>(head_dim)};
  }
};

}  // namespace lexico::train_dictionary

// The numbers of a dictionary as every device starts from: checked, widened to F32 and
// re-normalised (dictionary.h says what is refused and why rows are re-normalised).
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

struct UnitAtoms {
  int n_atoms = 0;
  int head_dim = 0;
  std::vector<float> rows;    // [n_atoms, head_dim], norm 1
  std::vector<double> norms;  // [n_atoms], as they were
};

// `dictionary` lies in host memory.
absl::StatusOr<UnitAtoms> ReadUnitAtoms(const TensorView& dictionary);

}  // namespace lexico::kernels

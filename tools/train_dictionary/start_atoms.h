// A dictionary file as the beginning of a training.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/hash.h"
#include "tools/train_dictionary/atoms.h"
#include "worker/model/config.h"

namespace lexico::train_dictionary {

struct StartAtoms {
  std::vector<Atoms> atoms;  // by dictionary
  base::Fingerprint fingerprint;
};

// The file may be of another model of the same shape: whether it helps is measured, not assumed.
// InvalidArgument names the tensor and both shapes where layers, head_dim or n_atoms differ, or a
// row that is no unit vector.
absl::StatusOr<StartAtoms> ReadStartAtoms(const std::string& path,
                                          const worker::ModelConfig& config, int n_atoms);

}  // namespace lexico::train_dictionary

// What a training goes on from after it was killed: the atoms of all dictionaries after a whole
// round, with the facts of the run they belong to. Vectors are not kept: they are gathered again,
// the same bits.
//
// A safetensors file: `layers.L.k` and `.v` [n_atoms, head_dim] and `layers.L.k.weights` [n_atoms],
// F32. Metadata: "format", "rounds_done", "crc32c" of the tensors' bytes in the file's order, and
// each fact of the run under "run.NAME".
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/train_dictionary/atoms.h"
#include "tools/train_dictionary/safe_file.h"

namespace lexico::train_dictionary {

struct Checkpoint {
  std::vector<Atoms> atoms;  // by dictionary
  int n_rounds_done = 0;
};

absl::Status WriteCheckpoint(const std::string& path, const Facts& run,
                             const std::vector<Atoms>& atoms, int n_rounds_done);

// NotFound: no such file. FailedPrecondition: of another run; the message names every fact that
// differs, with both values. DataLoss or InvalidArgument: damaged, or not a checkpoint.
absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path, const Facts& run,
                                          int n_dictionaries, int n_atoms, int head_dim);

// Bytes of such a file without its header.
int64_t CheckpointBytes(int n_dictionaries, int n_atoms, int head_dim);

}  // namespace lexico::train_dictionary

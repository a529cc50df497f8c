// The rounds of a training: a new set of vectors, passes over it, a checkpoint, the errors.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "kernels/api/stream.h"
#include "tools/train_dictionary/collect.h"
#include "tools/train_dictionary/safe_file.h"
#include "tools/train_dictionary/train_dictionary.h"
#include "tools/train_dictionary/trainer.h"
#include "tools/train_dictionary/windows.h"

namespace lexico::train_dictionary {

struct Rounds {
  const Options& options;
  const Facts& run;  // for checkpoints
  const TrainWindows& windows;
  int64_t n_windows = 0;  // of a round, that its set is filled from
  int64_t n_samples = 0;  // of a set
  bool begun = false;     // the trainer has atoms; otherwise it begins from the first set
  const std::function<void(const Progress&)>& watch;
};

// From the trainer's round on to the last one. Round r is gathered from windows of its own, which
// follow from its number alone: so a run that goes on from a checkpoint sees what an uninterrupted
// one would.
absl::Status RunRounds(const Rounds& rounds, const Model& model, const VectorSet& held_out,
                       Collector* collector, Trainer* trainer, const kernels::Stream& stream);

}  // namespace lexico::train_dictionary

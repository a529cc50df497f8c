// Runs windows of text through the model and keeps some of their keys and values.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "tools/train_dictionary/vector_set.h"
#include "tools/train_dictionary/windows.h"

namespace lexico::train_dictionary {

struct Vectors {
  VectorSet train;
  VectorSet held_out;
};

// n_samples vectors of the windows to train on, each window at a random place among the positions
// served, and up to 16,384 of those held out, from position 0. `progress` hears the part that is
// done.
// Errors: gather.h, VectorSet::Keep.
absl::StatusOr<Vectors> CollectVectors(const Windows& windows, const Model& model,
                                       int64_t n_samples, uint64_t seed,
                                       const kernels::Stream& stream,
                                       std::function<void(double)> progress);

}  // namespace lexico::train_dictionary

// Runs windows of text through the model and keeps their keys and values.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "tools/train_dictionary/gather.h"
#include "tools/train_dictionary/vector_set.h"
#include "tools/train_dictionary/windows.h"

namespace lexico::train_dictionary {

// Thread-compatible. The model must outlive it.
class Collector {
 public:
  // For windows of up to n_tokens_max.
  static absl::StatusOr<Collector> Create(const Model& model, int64_t n_tokens_max,
                                          const kernels::Stream& stream);

  // Of both: `progress` hears the part that is done, 0 .. 1. Errors of VectorSet::EndWindow and
  // TrainWindows::Read.

  // As large a part of each window as of any other, from position 0, up to 16,384 vectors of a
  // dictionary, as they are.
  absl::StatusOr<VectorSet> CollectHeldOut(const HeldOut& held_out,
                                           const std::function<void(double)>& progress);

  // Fills `set` anew with whole windows from windows[first] on. ResourceExhausted: they have not
  // that many vectors (CountWindows has looked).
  absl::Status Refill(const TrainWindows& windows, int64_t first, uint64_t seed,
                      const std::function<void(double)>& progress, VectorSet* set);

  int64_t n_tokens() const { return n_tokens_; }  // of text that went through the model

 private:
  Collector(const Model& model, const kernels::Stream& stream) : model_(model), stream_(stream) {}
  absl::Status Collect(const Ids& ids, int64_t first_position, int64_t n_runs, VectorSet* set);

  const Model& model_;
  kernels::Stream stream_;
  std::unique_ptr<Gatherer> gatherer_;
  int64_t n_tokens_ = 0;
};

// What `windows` give before the first of them comes again, without running the model.
struct WindowCount {
  int64_t n_vectors = 0;  // of a dictionary, up to n_wanted: whole runs
  int64_t n_tokens = 0;   // of the windows that were counted
  int64_t n_windows = 0;  // that are needed for n_vectors
};
absl::StatusOr<WindowCount> CountWindows(const TrainWindows& windows, int n_kv_heads,
                                         int64_t n_wanted);

}  // namespace lexico::train_dictionary

// Decode steps of a GPU as recorded graphs: one launch instead of one an op.
//
// What a step enqueues follows from its structure alone: which sessions change from step to step,
// their tokens, positions, draws, windows and pages lie in arrays of the device (step_arrays.h) at
// places that the structure gives. A structure lasts while the same number of sessions of the same
// layouts decode, until one of them has filled its place for pages (SessionPages).
//
// A structure is recorded at its kStepsInARow-th step in a row. A recording costs what ten to
// thirty replays save, so those of structures that last as long as they did until then are repaid,
// and where many sessions fill their places at different steps few are made. The steps before,
// whose shapes may be new to the ops, are enqueued op by op, as are all where graphs are off.
//
// Memory: the driver keeps a graph's kernels and arguments, on the device too (docs/adr/0014). At
// most kGraphsMax are kept; a new one takes the place of the one that served longest ago, where it
// can its memory as well. Where the device has no room for one, steps go on op by op.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/api/device.h"
#include "worker/kv/kv_layout.h"

namespace lexico::worker {

// What the ops of a step and their arguments follow from.
struct StepStructure {
  // Neighbours of one layout.
  struct Group {
    KvLayout layout;
    std::vector<int64_t> page_begin;  // [sessions of the group + 1]

    bool operator==(const Group&) const = default;
  };
  int n_top = 0;
  std::vector<Group> groups;

  bool operator==(const StepStructure&) const = default;
};

// How a step was enqueued.
enum class StepLaunch { kOps, kRecorded, kReplayed };

// Thread-compatible. The device outlives it.
class StepGraphs {
 public:
  static constexpr int kGraphsMax = 4;
  static constexpr int kStepsInARow = 8;

  // Of the stream that steps are enqueued on; null, as of a CPU: graphs are off.
  explicit StepGraphs(kernels::Device* device) : device_(device) {}

  // Enqueues the step of that structure. `ops` does so op by op.
  StepLaunch Enqueue(const StepStructure& structure, absl::FunctionRef<void()> ops);

 private:
  struct Entry {
    StepStructure structure;
    std::unique_ptr<kernels::Graph> graph;
  };
  // False where it does not fit the device.
  bool Record(const StepStructure& structure, absl::FunctionRef<void()> ops);

  kernels::Device* device_;
  StepStructure last_;
  int in_a_row_ = 0;            // steps of last_
  std::vector<Entry> entries_;  // the one that served last is the first
};

}  // namespace lexico::worker

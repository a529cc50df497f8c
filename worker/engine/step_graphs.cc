#include "worker/engine/step_graphs.h"

#include <algorithm>
#include <utility>

#include "proto/base/log.h"

namespace lexico::worker {

StepLaunch StepGraphs::Enqueue(const StepStructure& structure, absl::FunctionRef<void()> ops) {
  if (device_ == nullptr) {
    ops();
    return StepLaunch::kOps;
  }
  in_a_row_ = structure == last_ ? in_a_row_ + 1 : 1;
  last_ = structure;
  const auto known = std::ranges::find(entries_, structure, &Entry::structure);
  if (known != entries_.end()) {
    std::rotate(entries_.begin(), known, known + 1);
    device_->Replay(*entries_[0].graph);
    return StepLaunch::kReplayed;
  }
  if (in_a_row_ >= kStepsInARow && Record(structure, ops)) {
    device_->Replay(*entries_[0].graph);
    return StepLaunch::kRecorded;
  }
  ops();
  return StepLaunch::kOps;
}

bool StepGraphs::Record(const StepStructure& structure, absl::FunctionRef<void()> ops) {
  std::unique_ptr<kernels::Graph> old;
  if (std::ssize(entries_) == kGraphsMax) {
    old = std::move(entries_.back().graph);
    entries_.pop_back();
  }
  std::unique_ptr<kernels::Graph> graph = device_->Record(ops, std::move(old));
  if (graph == nullptr) {
    spdlog::warn("{} has no memory left for graphs of decode steps: they go op by op",
                 device_->name());
    entries_.clear();
    device_ = nullptr;
    return false;
  }
  entries_.insert(entries_.begin(), {structure, std::move(graph)});
  return true;
}

}  // namespace lexico::worker

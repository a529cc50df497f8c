// The ranks of an engine's model: one, or several that compute every pass together. Decisions are
// made by the engine's thread, which is rank 0; the others wait for what it gives them to do.
//
// Thread-compatible: the engine's thread, once it runs.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/api/rank_team.h"
#include "worker/engine/forward_context.h"

namespace lexico::worker {

class ForwardRanks {
 public:
  // REQUIRES: at least one, in the order of the ranks.
  explicit ForwardRanks(std::vector<std::unique_ptr<ForwardContext>> contexts)
      : contexts_(std::move(contexts)), team_(static_cast<int>(contexts_.size())) {}

  int size() const { return team_.size(); }
  ForwardContext& operator[](int rank) { return *contexts_[rank]; }
  // What does not differ by rank can be asked of the first.
  ForwardContext& first() { return *contexts_[0]; }
  const ForwardContext& first() const { return *contexts_[0]; }

  // Calls work(rank) on every rank's thread; all of them make the same collective calls.
  void Run(absl::FunctionRef<void(int)> work) { team_.Run(work); }
  kernels::RankTeam& team() { return team_; }

  // Returns when the ops of all ranks have finished, but for what is coded for prefills.
  void Synchronize() const {
    for (const auto& context : contexts_) context->stream.Synchronize();
  }
  // Returns when nothing is coded for prefills on any rank.
  void WaitForCoding() const {
    for (const auto& context : contexts_) context->coding.Synchronize();
  }

 private:
  const std::vector<std::unique_ptr<ForwardContext>> contexts_;
  kernels::RankTeam team_;
};

}  // namespace lexico::worker

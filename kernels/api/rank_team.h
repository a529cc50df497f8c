// Threads that act together, one for each rank of a model: collective calls (collective.h) block
// until all ranks make them, so each rank needs a thread.
//
// Thread-compatible: one thread calls Run at a time, and is rank 0 meanwhile. A team of one has no
// threads and costs nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace lexico::kernels {

class RankTeam {
 public:
  // REQUIRES: size >= 1.
  explicit RankTeam(int size);
  ~RankTeam();
  RankTeam(const RankTeam&) = delete;
  RankTeam& operator=(const RankTeam&) = delete;

  int size() const { return size_; }

  // Calls work(rank) for every rank, each always on the same thread of the team, and returns when
  // all of them have. What was written before is seen by the ranks, what they wrote is seen after.
  void Run(absl::FunctionRef<void(int)> work) {
    if (size_ == 1) return work(0);
    RunTogether(work);
  }

 private:
  void RunTogether(absl::FunctionRef<void(int)> work);
  void Helper(int rank);

  const int size_;
  // Of the round that runs; written before round_ changes.
  const absl::FunctionRef<void(int)>* work_ = nullptr;
  bool stopping_ = false;
  std::atomic<uint32_t> round_ = 0;
  std::atomic<uint32_t> left_ = 0;  // helpers that have not finished the round
  std::vector<std::thread> helpers_;
};

}  // namespace lexico::kernels

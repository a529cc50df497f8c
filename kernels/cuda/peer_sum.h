// Sums of few numbers over GPUs that reach each other's memory: what NCCL needs 10 us for.
//
//   every rank writes its numbers into a mailbox on every other GPU, then a flag behind them,
//   waits for the flags of the others in its own mailbox, and adds up in the order of the ranks
//
// so a sum crosses the links once, and all ranks have the same bits. The ranks' kernels run at the
// same time, each on its own GPU, and wait for each other; what a mailbox holds is told apart by
// counters in it, so a launch may also be recorded in a graph and replayed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/api/stream.h"
#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {

class PeerSum {
 public:
  // Null where two of the GPUs cannot reach each other's memory, or memory for mailboxes is short:
  // 2 MiB for every rank on each. Up to base::kRanksMax streams, each of another GPU.
  static std::unique_ptr<PeerSum> Create(std::span<const Stream> streams);
  ~PeerSum();
  PeerSum(const PeerSum&) = delete;
  PeerSum& operator=(const PeerSum&) = delete;

  // Whether x [n] can be added up here: aligned to 16 bytes, n a multiple of 4 and at most 256 Ki.
  static bool Fits(const float* x, int64_t n);

  // Enqueues x [n] = sum of the x of all ranks. Every rank calls it, in the same order of calls
  // with the same n. REQUIRES: Fits(x, n).
  void Run(int rank, float* x, int64_t n, const Gpu& gpu) const;

 private:
  struct Mailbox {
    std::shared_ptr<Device> device;
    char* memory = nullptr;
  };
  explicit PeerSum(std::vector<Mailbox> boxes) : boxes_(std::move(boxes)) {}

  std::vector<Mailbox> boxes_;  // [n_ranks]
};

}  // namespace lexico::kernels::cuda

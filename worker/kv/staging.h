// The way between blocks on a device and memory of the host: lanes of pinned memory, taken at
// start-up. From and to pinned memory a device copies by itself, at the speed of the bus and beside
// the ops; any other memory goes through the driver, piece by piece.
//
// A lane has two halves and a stream of its own on every rank's device: its holder works on one
// half while the device copies the other.
//
// Thread safety: Staging's methods may be called from any thread; a Lane is used by one thread at a
// time. A thread that holds a lane and waits for another can wait for ever.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/api/host_buffer.h"
#include "kernels/api/stream.h"

namespace lexico::worker {

// Bytes that are, or will be, at `block` on the device and at `host`.
struct HostCopy {
  uint8_t* block = nullptr;  // at any byte of a block, in the rank's arena
  uint8_t* host = nullptr;
  size_t bytes = 0;
  int rank = 0;
};

class Lane {
 public:
  Lane(kernels::HostBuffer memory, std::vector<kernels::Stream> streams)
      : memory_(std::move(memory)), streams_(std::move(streams)) {}

  // Memory of the host; `index` is 0 or 1.
  std::span<uint8_t> half(int index) const {
    const size_t bytes = memory_.bytes() / 2;
    return {memory_.as<uint8_t>() + index * bytes, bytes};
  }

  // Begins a copy; `host` is of a half. A copy that goes on where the one before ended on both
  // sides becomes part of it, so the last is kept back until Start or Synchronize.
  void Download(const HostCopy& copy) { Add(copy, Direction::kToHost); }
  void Upload(const HostCopy& copy) { Add(copy, Direction::kToDevice); }
  void Start();
  // Returns when all copies have happened.
  void Synchronize();

 private:
  enum class Direction { kToHost, kToDevice };
  void Add(const HostCopy& copy, Direction direction);

  const kernels::HostBuffer memory_;
  const std::vector<kernels::Stream> streams_;  // [n_ranks]
  HostCopy next_;                               // no bytes: none
  Direction direction_ = Direction::kToHost;
};

struct StagingOptions {
  // Transfers of pages at a time: that of the writer behind the answers, and three offloads or
  // restores. One alone can fill the bus; the others wait for the store.
  int n_lanes = 4;
  // At least the largest page. A half is copied within 0.2 ms at 50 GB/s, which is what a step's
  // own small copies may have to wait for, and is much longer than it takes to begin a copy.
  size_t half_bytes = size_t{8} << 20;
  // For tests: lanes where blocks are memory of the host, too.
  bool on_host = false;
};

class Staging {
 public:
  // Takes (n_lanes + 1) * 2 * half_bytes; `streams` [n_ranks]. ResourceExhausted where that cannot
  // be had.
  static absl::StatusOr<std::unique_ptr<Staging>> Create(const StagingOptions& options,
                                                         std::span<const kernels::Stream> streams);

  struct Return {
    Staging* staging = nullptr;
    void operator()(Lane* lane) const { staging->GiveBack(lane); }
  };
  // Waits for the lane's copies, then gives it back.
  using LaneHold = std::unique_ptr<Lane, Return>;
  // Waits until a lane is free.
  LaneHold Take();

  // To and from any memory of the host, through a lane that nobody holds for longer: done on
  // return.
  void Download(std::span<const HostCopy> copies);
  void Upload(std::span<const HostCopy> copies);

 private:
  explicit Staging(std::vector<std::unique_ptr<Lane>> lanes);
  void GiveBack(Lane* lane);

  const std::vector<std::unique_ptr<Lane>> lanes_;  // the first is that of Download and Upload
  absl::Mutex first_mutex_;
  absl::Mutex mutex_;
  std::vector<Lane*> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::worker

// How the ranks of one model reach each other. A rank is a stream with its share of the model
// (docs/adr/0012-tensor-parallelism.md); every rank has a thread of its own (rank_team.h), and all
// of them call the same functions below in the same order with the same sizes.
//
// What is computed is the same on every rank to the last bit, and does not depend on timing. On a
// CPU a call has finished when it returns, which is when all ranks have called it; on a GPU it is
// enqueued as an op is.
//
// Thread-compatible: one thread uses a Communicator at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"

namespace lexico::kernels {

// Rank `rank`'s consecutive part of n things: all parts have ceil(n / size) but for the last ones,
// which may have fewer, or none.
struct RankPart {
  int64_t begin = 0;
  int64_t count = 0;
};
constexpr RankPart PartOfRank(int64_t n, int rank, int size) {
  const int64_t part = (n + size - 1) / size;
  const int64_t begin = std::min(n, rank * part);
  return {begin, std::min(n, begin + part) - begin};
}

class Communicator {
 public:
  virtual ~Communicator() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }

  // x [n] becomes the sum of the x of all ranks; on a CPU they are added in the order of the ranks.
  // REQUIRES: x is aligned to 16 bytes on all ranks or on none.
  virtual void AllReduceSum(float* x, int64_t n, const Stream& stream) = 0;

  // Every rank has columns PartOfRank(width, rank, size) of a matrix and gets all of it.
  // local [n_rows, part.count], with room for n_rows * ceil(width / size) numbers; out [n_rows,
  // width], overwritten. On a GPU it passes through the stream's workspace. REQUIRES: no part is
  // empty; local and out do not overlap.
  virtual void AllGatherColumns(const float* local, int64_t n_rows, int64_t width, float* out,
                                const Stream& stream) = 0;

 protected:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}

 private:
  const int rank_;
  const int size_;
};

// One for each stream, in order: threads of this process that share memory for CPU streams, NCCL
// over GPUs of this machine. A single stream needs none: null. Unavailable where NCCL is not
// installed or cannot connect the GPUs; InvalidArgument when two streams are of one GPU. A GPU that
// fails later ends the process, as everywhere (device.h). NVLink multicast is not used.
absl::StatusOr<std::vector<std::shared_ptr<Communicator>>> MakeCommunicators(
    std::span<const Stream> streams);

}  // namespace lexico::kernels

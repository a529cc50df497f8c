// NCCL between GPUs of one machine and one process: a thread a rank, so that no call needs a group.
//
//   AllReduceSum       few numbers by PeerSum where the GPUs reach each other's memory; otherwise
//                      ncclAllReduce in place, whose rings and trees add every number up once and
//                      hand the sum round, so that all ranks have the same bits
//   AllGatherColumns   ncclAllGather of equal blocks into the workspace, then JoinColumns; in waves
//                      of rows where the workspace does not hold all of them
#include "kernels/cuda/collective.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/join_columns.h"
#include "kernels/cuda/nccl.h"
#include "kernels/cuda/peer_sum.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

// The communicators of all ranks, which end together.
class Communicators {
 public:
  Communicators(const Nccl& nccl, std::vector<ncclComm_t> comms, std::unique_ptr<PeerSum> peer_sum)
      : nccl_(nccl), comms_(std::move(comms)), peer_sum_(std::move(peer_sum)) {}
  ~Communicators() {
    for (const ncclComm_t comm : comms_) {
      CheckNccl(nccl_, nccl_.destroy(comm), nullptr, "ncclCommDestroy");
    }
  }
  Communicators(const Communicators&) = delete;
  Communicators& operator=(const Communicators&) = delete;

  const Nccl& nccl() const { return nccl_; }
  ncclComm_t comm(int rank) const { return comms_[rank]; }
  // May be null.
  const PeerSum* peer_sum() const { return peer_sum_.get(); }

 private:
  const Nccl& nccl_;
  const std::vector<ncclComm_t> comms_;
  const std::unique_ptr<PeerSum> peer_sum_;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(int rank, int size, std::shared_ptr<const Communicators> all)
      : Communicator(rank, size),
        nccl_(all->nccl()),
        comm_(all->comm(rank)),
        all_(std::move(all)) {}

  void AllReduceSum(float* x, int64_t n, const Stream& stream) override {
    const Gpu& gpu = GpuOf(stream);
    CheckPeers(gpu);
    if (all_->peer_sum() != nullptr && PeerSum::Fits(x, n)) {
      return all_->peer_sum()->Run(rank(), x, n, gpu);
    }
    CheckNccl(nccl_, nccl_.all_reduce(x, x, n, ncclFloat32, ncclSum, comm_, gpu.stream()), comm_,
              "ncclAllReduce");
  }

  void AllGatherColumns(const float* local, int64_t n_rows, int64_t width, float* out,
                        const Stream& stream) override {
    LEXICO_CHECK_GT(PartOfRank(width, size() - 1, size()).count, 0);
    const Gpu& gpu = GpuOf(stream);
    CheckPeers(gpu);
    const int64_t part = PartOfRank(width, 0, size()).count;
    const int64_t own = PartOfRank(width, rank(), size()).count;
    const int64_t wave =
        std::min<int64_t>(kJoinRowsMax, gpu.workspace_bytes() /
                                            (part * size() * static_cast<int64_t>(sizeof(float))));
    LEXICO_CHECK_GE(wave, 1);
    auto* const blocks = reinterpret_cast<float*>(gpu.workspace());
    for (int64_t row = 0; row < n_rows; row += wave) {
      const int64_t rows = std::min(wave, n_rows - row);
      CheckNccl(nccl_,
                nccl_.all_gather(local + row * own, blocks, rows * part, ncclFloat32, comm_,
                                 gpu.stream()),
                comm_, "ncclAllGather");
      JoinColumns(gpu, blocks, rows, width, part, out + row * width);
    }
  }

 private:
  // A peer that failed ends this process too.
  void CheckPeers(const Gpu& gpu) const {
    gpu.MakeCurrent();
    ncclResult_t error = ncclSuccess;
    CheckNccl(nccl_, nccl_.async_error(comm_, &error), comm_, "ncclCommGetAsyncError");
    CheckNccl(nccl_, error, comm_, "an earlier collective");
  }

  const Nccl& nccl_;
  const ncclComm_t comm_;
  const std::shared_ptr<const Communicators> all_;
};

}  // namespace

absl::StatusOr<std::vector<std::shared_ptr<Communicator>>> MakeCommunicators(
    std::span<const Stream> streams) {
  std::vector<int> ordinals;
  for (const Stream& stream : streams) ordinals.push_back(GpuOf(stream).ordinal());
  if (std::set(ordinals.begin(), ordinals.end()).size() != ordinals.size()) {
    return absl::InvalidArgumentError(
        fmt::format("{} ranks need as many GPUs, two of them are on {}", ordinals.size(),
                    GpuOf(streams[0]).name()));
  }
  const absl::StatusOr<const Nccl*> nccl = LoadNccl();
  if (!nccl.ok()) return nccl.status();
  const auto size = static_cast<int>(ordinals.size());
  std::vector<ncclComm_t> comms(size);
  const ncclResult_t made = (*nccl)->init_all(comms.data(), size, ordinals.data());
  if (made != ncclSuccess) {
    return absl::UnavailableError(fmt::format(
        "NCCL cannot connect {} GPUs from {} on: {}: {}", size, GpuOf(streams[0]).name(),
        (*nccl)->error_string(made), (*nccl)->last_error(nullptr)));
  }
  const auto all =
      std::make_shared<const Communicators>(**nccl, std::move(comms), PeerSum::Create(streams));
  std::vector<std::shared_ptr<Communicator>> communicators;
  for (int rank = 0; rank < size; ++rank) {
    communicators.push_back(std::make_shared<NcclCommunicator>(rank, size, all));
  }
  return communicators;
}

}  // namespace lexico::kernels::cuda

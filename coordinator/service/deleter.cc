#include "coordinator/service/deleter.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "coordinator/service/errors.h"
#include "coordinator/service/worker_call.h"
#include "proto/base/status.h"

namespace lexico::coord {
namespace {

using StubInterface = v1::WorkerService::StubInterface;

// The client waits; what takes longer is done in the background.
constexpr absl::Duration kReleaseTimeout = absl::Seconds(5);

}  // namespace

absl::Status Deleter::ReleaseOn(const std::string& worker_id, const Deletion& deletion,
                                bool delete_stored) {
  v1::ReleaseRequest request;
  request.mutable_session()->set_session_id(deletion.session_id);
  request.mutable_session()->set_epoch(deletion.epoch);
  request.set_delete_stored(delete_stored);
  v1::ReleaseResponse response;
  const absl::Status status =
      CallWorker(cluster_, worker_id, &StubInterface::Release, request, &response, kReleaseTimeout);
  if (IsTransportFailure(status)) cluster_.MarkUnreachable(worker_id);
  // Not there, and no store that could have it.
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::Status Deleter::Attempt(const Deletion& deletion, const std::string& holder) {
  if (store_ != nullptr) {
    if (!holder.empty()) {
      // For its memory; a worker that does not hear this is told with its next heartbeat.
      const absl::Status freed = ReleaseOn(holder, deletion, /*delete_stored=*/false);
      if (!freed.ok()) spdlog::info("{}", std::string(freed.message()));
    }
    return store_->Delete(deletion.session_id, deletion.epoch, deletion.create_time);
  }
  if (!holder.empty()) {
    const absl::Status status = ReleaseOn(holder, deletion, /*delete_stored=*/true);
    if (!IsTransportFailure(status)) return status;
  }
  LEXICO_ASSIGN_OR_RETURN(const std::string worker_id, cluster_.AnyWorker(""));
  return ReleaseOn(worker_id, deletion, /*delete_stored=*/true);
}

absl::Status Deleter::Delete(const Hold& hold) {
  const Session session = cluster_.Held(hold);
  const Deletion deletion{
      .session_id = session.session_id, .epoch = session.epoch, .create_time = session.create_time};
  const bool is_resident = session.placement == Placement::kResident;
  const absl::Status status = Attempt(deletion, is_resident ? session.worker : "");
  if (status.ok()) return cluster_.Remove(hold);
  spdlog::warn("session {} is deleted here; the store will be told later: {}", session.session_id,
               std::string(status.message()));
  return cluster_.BeginDeletion(hold);
}

void Deleter::RetryPending() {
  for (size_t left = cluster_.n_deletions(); left > 0 && !cluster_.IsStopping(); --left) {
    const auto pending = cluster_.NextDeletion(last_tried_);
    if (!pending.has_value()) return;
    last_tried_ = pending->deletion.session_id;
    const absl::Status status = Attempt(pending->deletion, /*holder=*/"");
    if (absl::IsAborted(status)) {
      spdlog::error("deletion of session {} is given up, `lexico store orphans` will list it: {}",
                    last_tried_, std::string(status.message()));
    } else if (!status.ok()) {
      if (!std::exchange(is_failing_, true)) {
        spdlog::warn("{} deletions wait for the store: {}", left, std::string(status.message()));
      }
      return;
    }
    is_failing_ = false;
    const absl::Status ended = cluster_.EndDeletion(pending->hold);
    if (!ended.ok()) {
      spdlog::warn("{}", std::string(ended.message()));
      return;
    }
    if (status.ok()) {
      spdlog::info("session {} is deleted from the store, {} after its client asked", last_tried_,
                   absl::FormatDuration(cluster_.Now() - pending->deletion.delete_time));
    }
  }
}

}  // namespace lexico::coord

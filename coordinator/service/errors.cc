#include "coordinator/service/errors.h"

#include <fmt/format.h>

#include "proto/base/check.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"

namespace lexico::coord {

absl::Status SessionNotFound(std::string_view session_id) {
  return rpc::WithDetail(absl::NotFoundError(fmt::format(
                             "no session {}; ListSessions names those there are", session_id)),
                         "session_unknown");
}

absl::Status RefusalStatus(const Admitted& admitted, std::string_view session_id,
                           std::string_view worker_id) {
  const std::string_view word = RefusalName(admitted.refusal);
  const auto full = [&](std::string_view what) {
    return rpc::WithDetail(
        absl::ResourceExhaustedError(fmt::format("{} has {} calls in flight, at most {}; retry "
                                                 "after {}",
                                                 what, admitted.in_flight, admitted.bound,
                                                 absl::FormatDuration(admitted.retry_after))),
        word, admitted.retry_after);
  };
  switch (admitted.refusal) {
    case Refusal::kSessionBusy:
      return rpc::WithDetail(
          absl::FailedPreconditionError(
              fmt::format("session {} has a call running; wait for it or cancel it", session_id)),
          word);
    case Refusal::kSessionMoving:
      return rpc::WithDetail(
          absl::UnavailableError(fmt::format("session {} is being moved", session_id)), word,
          absl::Seconds(1));
    case Refusal::kQueueFull:
      return full("the coordinator");
    case Refusal::kTenantFull:
      return full("the tenant");
    case Refusal::kWorkerFull:
      return full(fmt::format("worker {}", worker_id));
    case Refusal::kNone:
      break;
  }
  LEXICO_UNREACHABLE();
}

absl::Status NoRouteStatus(const NoRoute& no_route, std::string_view session_id,
                           absl::Duration retry_after) {
  switch (no_route.cause) {
    case NoRouteCause::kNoModel:
      if (session_id.empty()) {
        return rpc::WithDetail(absl::NotFoundError(no_route.text), "model_unknown");
      }
      [[fallthrough]];
    case NoRouteCause::kNoWorker:
    case NoRouteCause::kNotReady:
      return rpc::WithDetail(absl::UnavailableError(no_route.text), "no_worker", retry_after);
    case NoRouteCause::kFull:
      return rpc::WithDetail(absl::ResourceExhaustedError(no_route.text), "worker_full",
                             retry_after);
  }
  LEXICO_UNREACHABLE();
}

absl::Status WorkerLost(std::string_view session_id, std::string_view worker_id,
                        std::string_view what_now) {
  return rpc::WithDetail(
      absl::UnavailableError(fmt::format("worker {} was lost while it worked on session {}; {}",
                                         worker_id, session_id, what_now)),
      "worker_lost", absl::Milliseconds(100));
}

absl::Status ShuttingDown() {
  return rpc::WithDetail(absl::UnavailableError("the coordinator is shutting down"),
                         "shutting_down", absl::Seconds(1));
}

absl::Status NoStoreGiven() {
  return rpc::WithDetail(
      absl::FailedPreconditionError("this coordinator was not told where the cache store is; start "
                                    "it with --store host:port"),
      "store_not_given");
}

absl::Status StateFailed(const absl::Status& status) {
  return rpc::WithDetail(base::Annotate(status, "the coordinator's state was not written"),
                         absl::IsResourceExhausted(status) ? "state_full" : "state_failed",
                         absl::Seconds(5));
}

bool IsTransportFailure(const absl::Status& status) {
  return absl::IsUnavailable(status) && rpc::ReasonOf(status).empty();
}

bool IsStaleOwner(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsAborted(status);
}

bool IsStillStopping(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) && rpc::ReasonOf(status) == "session_busy";
}

bool IsWorthAnotherWorker(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsDeadlineExceeded(status);
}

}  // namespace lexico::coord

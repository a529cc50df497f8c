// The statuses the coordinator answers with, each with its reason word. docs/errors.md is the page
// for clients; a word added here is added there.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/admission/admission.h"
#include "coordinator/router/router.h"

namespace lexico::coord {

absl::Status SessionNotFound(std::string_view session_id);
// RESOURCE_EXHAUSTED, or FAILED_PRECONDITION / UNAVAILABLE for a session with another activity.
absl::Status RefusalStatus(const Admitted& admitted, std::string_view session_id,
                           std::string_view worker_id = "");
// `retry_after` is when the workers will have reported again. `session_id` is "" for a new session,
// for which an unknown model is the caller's mistake.
absl::Status NoRouteStatus(const NoRoute& no_route, std::string_view session_id,
                           absl::Duration retry_after);
absl::Status WorkerLost(std::string_view session_id, std::string_view worker_id,
                        std::string_view what_now);
absl::Status ShuttingDown();
absl::Status NoStoreGiven();
// A disk that is full or fails is the coordinator's state, not the session's: the word says so.
absl::Status StateFailed(const absl::Status& status);

// How a worker's answer is to be taken.
//
// The connection failed: UNAVAILABLE that no Lexico process said. One that has a reason word comes
// from a live worker (its store is down, for instance), and another worker would not fare better.
bool IsTransportFailure(const absl::Status& status);
// The worker does not hold the session at the epoch we named.
bool IsStaleOwner(const absl::Status& status);
// The worker is still busy with a call of this session. We let only one run at a time, so it is one
// that was cancelled and stops within a step.
bool IsStillStopping(const absl::Status& status);
// Another worker may be able to take the session.
bool IsWorthAnotherWorker(const absl::Status& status);

}  // namespace lexico::coord

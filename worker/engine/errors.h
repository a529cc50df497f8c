// What programs need to know of a failed engine call besides its code: a stable reason word and
// when to try again. The service copies both into lexico.v1.ErrorDetail.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace lexico::worker {

inline constexpr std::string_view kReasonSessionBusy = "session_busy";        // FAILED_PRECONDITION
inline constexpr std::string_view kReasonContextFull = "context_full";        // FAILED_PRECONDITION
inline constexpr std::string_view kReasonQueueFull = "queue_full";            // RESOURCE_EXHAUSTED
inline constexpr std::string_view kReasonPagesExhausted = "pages_exhausted";  // RESOURCE_EXHAUSTED
inline constexpr std::string_view kReasonNotSmaller = "profile_not_smaller";  // FAILED_PRECONDITION
inline constexpr std::string_view kReasonStopping = "engine_stopping";        // UNAVAILABLE

absl::Status WithReason(absl::Status status, std::string_view reason,
                        absl::Duration retry_after = absl::ZeroDuration());
// What WithReason attached; "" and zero without it.
std::string ReasonOf(const absl::Status& status);
absl::Duration RetryAfterOf(const absl::Status& status);

}  // namespace lexico::worker

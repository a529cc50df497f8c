#include "worker/engine/errors.h"

#include <fmt/format.h>

#include "absl/strings/cord.h"

namespace lexico::worker {
namespace {

constexpr char kReasonUrl[] = "type.lexico.dev/engine.reason";
constexpr char kRetryUrl[] = "type.lexico.dev/engine.retry_after_ms";

}  // namespace

absl::Status WithReason(absl::Status status, std::string_view reason, absl::Duration retry_after) {
  if (status.ok()) return status;
  status.SetPayload(kReasonUrl, absl::Cord(std::string(reason)));
  if (retry_after > absl::ZeroDuration()) {
    status.SetPayload(kRetryUrl,
                      absl::Cord(fmt::format("{}", absl::ToInt64Milliseconds(retry_after))));
  }
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kReasonUrl);
  return payload ? std::string(*payload) : "";
}

absl::Duration RetryAfterOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryUrl);
  return payload ? absl::Milliseconds(std::stoll(std::string(*payload))) : absl::ZeroDuration();
}

}  // namespace lexico::worker

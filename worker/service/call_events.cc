#include "worker/service/call_events.h"

namespace lexico::worker {
namespace {

// A dropped client is noticed within this time; a step takes longer.
constexpr absl::Duration kLookAround = absl::Milliseconds(5);

}  // namespace

absl::StatusOr<CallResult> CallEvents::Drain(
    const std::function<bool(const v1::GenerateEvent&)>& send, const std::function<bool()>& stop,
    const std::function<void()>& cancel) {
  bool is_cancelled = false;
  while (true) {
    std::deque<v1::GenerateEvent> events;
    std::optional<absl::StatusOr<CallResult>> result;
    {
      absl::MutexLock lock(&mutex_);
      if (events_.empty() && !result_.has_value()) changed_.WaitWithTimeout(&mutex_, kLookAround);
      events.swap(events_);
      if (result_.has_value()) result = *result_;
    }
    for (const v1::GenerateEvent& event : events) {
      if (is_cancelled || send(event)) continue;
      is_cancelled = true;
      cancel();
    }
    if (result.has_value()) return *result;
    if (!is_cancelled && stop()) {
      is_cancelled = true;
      cancel();
    }
  }
}

}  // namespace lexico::worker

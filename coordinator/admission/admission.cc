#include "coordinator/admission/admission.h"

#include <algorithm>

#include "proto/base/check.h"

namespace lexico::coord {
namespace {

// A new duration weighs an eighth: the mean follows a change of load within some ten calls.
constexpr double kMeanWeight = 0.125;
// Sooner makes clients spin, later leaves places empty.
constexpr absl::Duration kRetryMin = absl::Milliseconds(50);
constexpr absl::Duration kRetryMax = absl::Seconds(30);

}  // namespace

std::string_view RefusalName(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNone:
      return "none";
    case Refusal::kSessionBusy:
      return "session_busy";
    case Refusal::kSessionMoving:
      return "session_moving";
    case Refusal::kQueueFull:
      return "queue_full";
    case Refusal::kTenantFull:
      return "tenant_full";
    case Refusal::kWorkerFull:
      return "worker_full";
  }
  LEXICO_UNREACHABLE();
}

// With n calls in flight of mean duration d, one ends every d / n (Little's law). Whoever is
// refused k-th since the last end is told the k-th of the coming places, so that the refused do not
// all come back at once.
absl::Duration Admission::RetryAfter(int64_t in_flight) {
  ++n_refused_since_end_;
  const absl::Duration wait = mean_call_ * n_refused_since_end_ / std::max<int64_t>(in_flight, 1);
  return std::clamp(wait, kRetryMin, kRetryMax);
}

Admitted Admission::BeginCall(const std::string& session_id, const std::string& tenant,
                              absl::Time now) {
  if (const auto it = active_.find(session_id); it != active_.end()) {
    return {.refusal = it->second.activity == Activity::kCall ? Refusal::kSessionBusy
                                                              : Refusal::kSessionMoving};
  }
  if (n_calls_ >= limits_.calls_max) {
    return {Refusal::kQueueFull, RetryAfter(n_calls_), n_calls_, limits_.calls_max};
  }
  const auto tenant_calls = tenant_calls_.find(tenant);
  const int64_t n_tenant = tenant_calls == tenant_calls_.end() ? 0 : tenant_calls->second;
  if (limits_.tenant_calls_max > 0 && n_tenant >= limits_.tenant_calls_max) {
    return {Refusal::kTenantFull, RetryAfter(n_tenant), n_tenant, limits_.tenant_calls_max};
  }
  active_[session_id] = {.activity = Activity::kCall, .tenant = tenant, .begin = now};
  ++tenant_calls_[tenant];
  ++n_calls_;
  return {};
}

Admitted Admission::AssignWorker(const std::string& session_id, const std::string& worker_id) {
  const auto it = active_.find(session_id);
  LEXICO_CHECK(it != active_.end());
  LEXICO_CHECK(it->second.activity == Activity::kCall);
  CountWorker(it->second.worker, -1);
  it->second.worker.clear();
  const int64_t in_flight = WorkerCalls(worker_id);
  if (in_flight >= limits_.worker_calls_max) {
    return {Refusal::kWorkerFull, RetryAfter(in_flight), in_flight, limits_.worker_calls_max};
  }
  it->second.worker = worker_id;
  CountWorker(worker_id, +1);
  return {};
}

Admitted Admission::BeginMove(const std::string& session_id) {
  if (const auto it = active_.find(session_id); it != active_.end()) {
    return {.refusal = it->second.activity == Activity::kCall ? Refusal::kSessionBusy
                                                              : Refusal::kSessionMoving};
  }
  active_[session_id] = {.activity = Activity::kMove};
  return {};
}

void Admission::End(const std::string& session_id, absl::Time now) {
  const auto it = active_.find(session_id);
  LEXICO_CHECK(it != active_.end());
  const Entry entry = it->second;
  active_.erase(it);
  if (entry.activity != Activity::kCall) return;
  CountWorker(entry.worker, -1);
  const auto tenant = tenant_calls_.find(entry.tenant);
  if (--tenant->second == 0) tenant_calls_.erase(tenant);
  --n_calls_;
  n_refused_since_end_ = 0;
  const absl::Duration took = std::max(now - entry.begin, absl::ZeroDuration());
  mean_call_ = mean_call_ * (1 - kMeanWeight) + took * kMeanWeight;
}

Activity Admission::ActivityOf(const std::string& session_id) const {
  const auto it = active_.find(session_id);
  return it == active_.end() ? Activity::kNone : it->second.activity;
}

int64_t Admission::WorkerCalls(const std::string& worker_id) const {
  const auto it = worker_calls_.find(worker_id);
  return it == worker_calls_.end() ? 0 : it->second;
}

void Admission::CountWorker(const std::string& worker_id, int change) {
  if (worker_id.empty()) return;
  const auto it = worker_calls_.emplace(worker_id, 0).first;
  it->second += change;
  LEXICO_CHECK_GE(it->second, 0);
  if (it->second == 0) worker_calls_.erase(it);
}

}  // namespace lexico::coord

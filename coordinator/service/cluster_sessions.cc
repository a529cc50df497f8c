// Holding, placing and recording sessions.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "coordinator/registry/session_record.h"
#include "coordinator/service/cluster.h"
#include "coordinator/service/errors.h"
#include "coordinator/service/keys.h"
#include "proto/base/check.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"

namespace lexico::coord {
namespace {

// Waiters look at their caller this often, should nothing wake them: a cancelled call frees its
// thread within this time.
constexpr absl::Duration kWaitSlice = absl::Milliseconds(20);

std::string KeyOf(const std::string& session_id) {
  return std::string(kSessionPrefix) + session_id;
}

}  // namespace

Hold::~Hold() {
  if (cluster_ != nullptr) cluster_->End(session_id_);
}

void Cluster::End(const std::string& session_id) {
  absl::MutexLock lock(&mutex_);
  admission_.End(session_id, clock_.Now());
  changed_.SignalAll();
}

absl::Status Cluster::CheckVisible(const std::string& session_id, const std::string& tenant) {
  const Session* session = registry_.Find(session_id);
  if (session == nullptr || session->tenant != tenant) return SessionNotFound(session_id);
  return absl::OkStatus();
}

absl::Status Cluster::WaitForChange(const Caller& caller) {
  if (is_stopping_) return ShuttingDown();
  changed_.WaitWithTimeout(&mutex_, kWaitSlice);
  return caller.StillThere();
}

absl::Status Cluster::Refuse(const Admitted& admitted, const std::string& session_id,
                             const std::string& worker_id) {
  const absl::Status status = RefusalStatus(admitted, session_id, worker_id);
  if (absl::IsResourceExhausted(status)) {
    metrics_
        .Counter("lexico_admission_rejections_total", {std::string(RefusalName(admitted.refusal))})
        .Increment();
  }
  return status;
}

absl::StatusOr<Hold> Cluster::BeginCall(const Caller& caller, const std::string& session_id) {
  absl::MutexLock lock(&mutex_);
  const absl::Time deadline = clock_.Now() + options_.move_wait;
  while (true) {
    if (is_stopping_) return ShuttingDown();
    LEXICO_RETURN_IF_ERROR(CheckVisible(session_id, caller.tenant()));
    const Admitted admitted = admission_.BeginCall(session_id, caller.tenant(), clock_.Now());
    if (admitted.ok()) {
      MarkStale(session_id);
      return Hold(this, session_id);
    }
    if (admitted.refusal != Refusal::kSessionMoving || clock_.Now() >= deadline) {
      return Refuse(admitted, session_id);
    }
    LEXICO_RETURN_IF_ERROR(WaitForChange(caller));
  }
}

absl::StatusOr<Hold> Cluster::BeginMove(const Caller& caller, const std::string& session_id,
                                        MoveOptions options) {
  absl::MutexLock lock(&mutex_);
  const absl::Time deadline = clock_.Now() + options_.move_wait;
  while (true) {
    const Session* session = registry_.Find(session_id);
    if (session == nullptr) return SessionNotFound(session_id);
    if (!options.any_tenant) LEXICO_RETURN_IF_ERROR(CheckVisible(session_id, caller.tenant()));
    const Admitted admitted = admission_.BeginMove(session_id);
    if (admitted.ok()) return Hold(this, session_id);
    // A drain waits as long as its caller does; a call may take minutes.
    const bool waits = options.wait_for_call ||
                       (admitted.refusal == Refusal::kSessionMoving && clock_.Now() < deadline);
    if (!waits) return Refuse(admitted, session_id);
    LEXICO_RETURN_IF_ERROR(WaitForChange(caller));
  }
}

absl::StatusOr<Hold> Cluster::BeginNew(const Caller& caller, const std::string& session_id,
                                       bool wait) {
  absl::MutexLock lock(&mutex_);
  const absl::Time deadline = clock_.Now() + options_.move_wait;
  while (true) {
    if (is_stopping_) return ShuttingDown();
    const Admitted admitted = admission_.BeginMove(session_id);
    if (admitted.ok()) return Hold(this, session_id);
    if (!wait || clock_.Now() >= deadline) return Refuse(admitted, session_id);
    LEXICO_RETURN_IF_ERROR(WaitForChange(caller));
  }
}

absl::Status Cluster::AssignWorker(const Hold& hold, const std::string& worker_id) {
  absl::MutexLock lock(&mutex_);
  const Admitted admitted = admission_.AssignWorker(hold.session_id(), worker_id);
  return admitted.ok() ? absl::OkStatus() : Refuse(admitted, hold.session_id(), worker_id);
}

absl::StatusOr<Cluster::Seen> Cluster::Get(const std::string& tenant,
                                           const std::string& session_id) {
  absl::MutexLock lock(&mutex_);
  LEXICO_RETURN_IF_ERROR(CheckVisible(session_id, tenant));
  return Seen{*registry_.Find(session_id), admission_.ActivityOf(session_id)};
}

Session Cluster::Held(const Hold& hold) {
  absl::MutexLock lock(&mutex_);
  const Session* session = registry_.Find(hold.session_id());
  LEXICO_CHECK(session != nullptr);
  return *session;
}

std::vector<Cluster::Seen> Cluster::List(const std::string& tenant, const std::string& start_after,
                                         size_t count) {
  absl::MutexLock lock(&mutex_);
  std::vector<Seen> result;
  const auto& sessions = registry_.sessions();
  for (auto it = sessions.upper_bound(start_after); it != sessions.end(); ++it) {
    if (it->second.tenant != tenant) continue;
    if (result.size() == count) break;
    result.push_back({it->second, admission_.ActivityOf(it->first)});
  }
  return result;
}

std::vector<std::string> Cluster::SessionsOn(const std::string& worker_id) {
  absl::MutexLock lock(&mutex_);
  return registry_.SessionsOn(worker_id);
}

absl::StatusOr<Route> Cluster::ChooseWorker(const Caller& caller, RouteRequest request,
                                            const std::string& session_id, absl::Duration wait) {
  absl::MutexLock lock(&mutex_);
  const absl::Time deadline = clock_.Now() + wait;
  while (true) {
    request.session = session_id.empty() ? nullptr : registry_.Find(session_id);
    request.keeper = registry_.KeeperOf(session_id);
    // Known from the journal only: its worker has a lease's time to register.
    const bool is_expected = request.session != nullptr &&
                             request.session->placement == Placement::kResident &&
                             !registry_.IsLive(request.session->worker);
    if (!is_expected) {
      const RouteResult result = coord::ChooseWorker(request, registry_.workers());
      if (const auto* route = std::get_if<Route>(&result)) {
        metrics_
            .Counter("lexico_route_decisions_total", {std::string(RouteReasonName(route->reason))})
            .Increment();
        return *route;
      }
      const auto& none = std::get<NoRoute>(result);
      if (none.cause == NoRouteCause::kFull || clock_.Now() >= deadline) {
        if (none.cause == NoRouteCause::kFull) {
          metrics_.Counter("lexico_admission_rejections_total", {"worker_full"}).Increment();
        }
        return NoRouteStatus(none, session_id, options_.lease / 3);
      }
    }
    LEXICO_RETURN_IF_ERROR(WaitForChange(caller));
  }
}

absl::StatusOr<Session> Cluster::Create(const Hold& hold, Session session) {
  // Each change of epoch is a write of its own, so the state's revision is at least as large as any
  // epoch ever given, also to a deleted session of this id whose worker may still live on.
  session.epoch = state_.Revision() + 1;
  session.create_time = session.last_use_time = clock_.Now();
  const auto revision =
      state_.Put(KeyOf(session.session_id), EncodeSession(session), 0, Durability::kDurable);
  if (!revision.ok()) return StateFailed(revision.status());
  session.revision = *revision;
  // What is left in the store under this id goes with the new session: its first manifest replaces
  // the old one, and its deletion takes that along.
  LEXICO_RETURN_IF_ERROR(EndDeletion(hold));
  absl::MutexLock lock(&mutex_);
  LEXICO_RETURN_IF_ERROR(registry_.Add(session));
  return session;
}

absl::StatusOr<uint64_t> Cluster::ChangeOwner(const Hold& hold, const std::string& worker_id,
                                              Placement placement) {
  Session next = Held(hold);
  ++next.epoch;
  next.worker = worker_id;
  next.placement = placement;
  const auto revision =
      state_.Put(KeyOf(next.session_id), EncodeSession(next), next.revision, Durability::kDurable);
  if (!revision.ok()) return StateFailed(revision.status());
  absl::MutexLock lock(&mutex_);
  registry_.SetRevision(next.session_id, *revision);
  LEXICO_RETURN_IF_ERROR(registry_.Place(next.session_id, worker_id, next.epoch));
  if (worker_id.empty()) registry_.SetPlacement(next.session_id, next.epoch, placement);
  return next.epoch;
}

void Cluster::Confirm(const Hold& hold, uint64_t epoch, Placement placement,
                      const SessionFacts& facts) {
  {
    absl::MutexLock lock(&mutex_);
    registry_.SetPlacement(hold.session_id(), epoch, placement);
    registry_.UpdateFacts(hold.session_id(), epoch, ++last_question_, facts);
    MarkStale(hold.session_id());  // pages may still be on their way
  }
  const absl::Status status = Persist(hold.session_id(), Durability::kLazy);
  if (!status.ok()) spdlog::warn("facts not written: {}", std::string(status.message()));
}

void Cluster::MarkUnsettled(const Hold& hold) {
  absl::MutexLock lock(&mutex_);
  unsettled_.insert(hold.session_id());
}

bool Cluster::TakeUnsettled(const Hold& hold) {
  absl::MutexLock lock(&mutex_);
  return unsettled_.erase(hold.session_id()) > 0;
}

void Cluster::MarkUsed(const Hold& hold, std::optional<int64_t> n_tokens) {
  {
    absl::MutexLock lock(&mutex_);
    registry_.MarkUsed(hold.session_id(), clock_.Now(), n_tokens);
  }
  const absl::Status status = Persist(hold.session_id(), Durability::kLazy);
  if (!status.ok()) spdlog::warn("facts not written: {}", std::string(status.message()));
}

absl::Status Cluster::Remove(const Hold& hold) {
  const Session session = Held(hold);
  const absl::Status status = state_.Delete(KeyOf(session.session_id), session.revision);
  if (!status.ok()) return StateFailed(status);
  absl::MutexLock lock(&mutex_);
  registry_.Remove(session.session_id);
  unsettled_.erase(session.session_id);
  stale_.erase(session.session_id);
  return absl::OkStatus();
}

absl::Status Cluster::Persist(const std::string& session_id, Durability durability) {
  Session session;
  {
    absl::MutexLock lock(&mutex_);
    const Session* found = registry_.Find(session_id);
    if (found == nullptr) return absl::OkStatus();
    session = *found;
  }
  LEXICO_ASSIGN_OR_RETURN(
      const uint64_t revision,
      state_.Put(KeyOf(session_id), EncodeSession(session), session.revision, durability));
  absl::MutexLock lock(&mutex_);
  registry_.SetRevision(session_id, revision);
  return absl::OkStatus();
}

}  // namespace lexico::coord

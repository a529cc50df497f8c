#include "coordinator/registry/registry.h"

#include <fmt/format.h>

#include <utility>

#include "proto/base/check.h"

namespace lexico::coord {

std::string_view WorkerStateName(WorkerState state) {
  switch (state) {
    case WorkerState::kReady:
      return "ready";
    case WorkerState::kDraining:
      return "draining";
    case WorkerState::kDrained:
      return "drained";
    case WorkerState::kLost:
      return "lost";
  }
  LEXICO_UNREACHABLE();
}

std::string_view PlacementName(Placement placement) {
  switch (placement) {
    case Placement::kResident:
      return "resident";
    case Placement::kOffloaded:
      return "offloaded";
    case Placement::kRecovering:
      return "recovering";
  }
  LEXICO_UNREACHABLE();
}

absl::StatusOr<Reconciled> Registry::Register(const Registration& registration, absl::Time now) {
  Worker& worker = workers_[registration.worker_id];
  const bool is_live = !worker.lease_id.empty() && worker.state != WorkerState::kLost;
  if (is_live && worker.address != registration.address) {
    return absl::FailedPreconditionError(fmt::format(
        "worker id {} belongs to the live worker at {}, not {}; choose another --worker_id or wait "
        "{} for the old lease to end",
        registration.worker_id, worker.address, registration.address,
        absl::FormatDuration(lease_)));
  }
  const auto owned = SessionsOn(registration.worker_id);
  worker = {.worker_id = registration.worker_id,
            .address = registration.address,
            .lease_id = registration.lease_id,
            .state = WorkerState::kReady,
            .model = registration.model,
            .load = registration.load,
            .n_sessions = static_cast<int64_t>(owned.size()),
            .last_heartbeat = now};
  expected_.erase(registration.worker_id);

  // Whatever it owned is lost first; what it lists at the right epoch comes back in Reconcile.
  const std::set<std::string> was_resident(owned.begin(), owned.end());
  std::vector<std::string> lost;
  LoseSessionsOf(registration.worker_id, &lost);
  Reconciled result = Reconcile(registration.worker_id, registration.sessions);
  SettleDraining(&worker);
  std::set<std::string> changed(lost.begin(), lost.end());
  for (const std::string& id : result.changed) {
    // Lost and back again is no change.
    if (was_resident.contains(id)) {
      changed.erase(id);
    } else {
      changed.insert(id);
    }
  }
  result.changed.assign(changed.begin(), changed.end());
  return result;
}

absl::StatusOr<Reconciled> Registry::Heartbeat(const std::string& worker_id,
                                               const std::string& lease_id, const WorkerLoad& load,
                                               const std::vector<HeldSession>& sessions,
                                               absl::Time now) {
  const auto it = workers_.find(worker_id);
  if (it == workers_.end() || it->second.state == WorkerState::kLost ||
      it->second.lease_id != lease_id) {
    return absl::FailedPreconditionError(
        fmt::format("worker {} has no lease {} here; register again", worker_id, lease_id));
  }
  it->second.load = load;
  it->second.last_heartbeat = now;
  it->second.unreachable = false;
  return Reconcile(worker_id, sessions);
}

absl::StatusOr<Reconciled> Registry::Deregister(const std::string& worker_id,
                                                const std::string& lease_id) {
  const auto it = workers_.find(worker_id);
  if (it == workers_.end() || it->second.lease_id != lease_id) {
    return absl::FailedPreconditionError(
        fmt::format("worker {} has no lease {} here; nothing to give up", worker_id, lease_id));
  }
  std::set<std::string> held;
  for (const HeldSession& session : last_held_[worker_id]) held.insert(session.session_id);
  Reconciled result;
  for (const std::string& id : SessionsOn(worker_id)) {
    ChangePlacement(&sessions_.at(id),
                    held.contains(id) ? Placement::kRecovering : Placement::kOffloaded);
    result.changed.push_back(id);
  }
  workers_.erase(worker_id);
  last_held_.erase(worker_id);
  draining_.erase(worker_id);
  return result;
}

Expired Registry::Expire(absl::Time now) {
  Expired result;
  for (auto it = workers_.begin(); it != workers_.end();) {
    Worker& worker = it->second;
    const absl::Duration age = now - worker.last_heartbeat;
    if (worker.state == WorkerState::kLost) {
      it = age > lease_ + kLostKept ? workers_.erase(it) : std::next(it);
      continue;
    }
    if (age > lease_) {
      worker.state = WorkerState::kLost;
      last_held_.erase(worker.worker_id);
      result.workers.push_back(worker.worker_id);
      LoseSessionsOf(worker.worker_id, &result.changed);
    }
    ++it;
  }
  for (auto it = expected_.begin(); it != expected_.end();) {
    if (now <= it->second) {
      ++it;
      continue;
    }
    result.workers.push_back(it->first);
    LoseSessionsOf(it->first, &result.changed);
    it = expected_.erase(it);
  }
  return result;
}

void Registry::MarkUnreachable(const std::string& worker_id) {
  const auto it = workers_.find(worker_id);
  if (it != workers_.end()) it->second.unreachable = true;
}

absl::Status Registry::SetDraining(const std::string& worker_id, bool draining) {
  if (!IsLive(worker_id)) {
    return absl::NotFoundError(
        fmt::format("no worker {}; the live workers are: {}", worker_id, WorkerNames()));
  }
  Worker& worker = workers_[worker_id];
  if (draining) {
    draining_.insert(worker_id);
    SettleDraining(&worker);
  } else {
    draining_.erase(worker_id);
    worker.state = WorkerState::kReady;
  }
  return absl::OkStatus();
}

void Registry::SettleDraining(Worker* worker) const {
  if (worker->state == WorkerState::kLost || !draining_.contains(worker->worker_id)) return;
  worker->state = worker->n_sessions == 0 ? WorkerState::kDrained : WorkerState::kDraining;
}

const Worker* Registry::FindWorker(const std::string& worker_id) const {
  const auto it = workers_.find(worker_id);
  return it == workers_.end() ? nullptr : &it->second;
}

bool Registry::IsLive(const std::string& worker_id) const {
  const Worker* worker = FindWorker(worker_id);
  return worker != nullptr && worker->state != WorkerState::kLost;
}

std::string Registry::WorkerNames() const {
  std::string names;
  for (const auto& [id, worker] : workers_) {
    if (worker.state == WorkerState::kLost) continue;
    names += (names.empty() ? "" : ", ") + id;
  }
  return names.empty() ? "none" : names;
}

void Registry::Load(Session session, absl::Time now) {
  const std::string id = session.session_id;
  if (session.placement == Placement::kResident) {
    if (!IsLive(session.worker)) expected_[session.worker] = now + lease_;
    if (const auto it = workers_.find(session.worker); it != workers_.end()) {
      ++it->second.n_sessions;
      SettleDraining(&it->second);
    }
  }
  const bool inserted = sessions_.emplace(id, std::move(session)).second;
  LEXICO_CHECK(inserted);
}

absl::Status Registry::Add(Session session) {
  const Placement placement = session.placement;
  session.placement = Placement::kOffloaded;
  session.is_born_here = true;
  const auto [it, inserted] = sessions_.emplace(session.session_id, std::move(session));
  if (!inserted) return absl::AlreadyExistsError(fmt::format("session {} exists", it->first));
  const bool is_lost = placement == Placement::kResident && !IsLive(it->second.worker);
  ChangePlacement(&it->second, is_lost ? Placement::kRecovering : placement);
  return absl::OkStatus();
}

absl::Status Registry::Place(const std::string& session_id, const std::string& worker_id,
                             uint64_t epoch) {
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end()) return absl::NotFoundError(fmt::format("no session {}", session_id));
  Session& session = it->second;
  if (epoch <= session.epoch) {
    return absl::AbortedError(fmt::format("session {} is at epoch {}, which {} does not exceed",
                                          session_id, session.epoch, epoch));
  }
  ChangePlacement(&session, Placement::kOffloaded);
  session.epoch = epoch;
  session.worker = worker_id;
  if (!worker_id.empty()) {
    // An owner that was lost in the meantime never becomes resident (R3).
    ChangePlacement(&session, IsLive(worker_id) ? Placement::kResident : Placement::kRecovering);
  }
  return absl::OkStatus();
}

bool Registry::SetPlacement(const std::string& session_id, uint64_t epoch, Placement placement) {
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end() || it->second.epoch != epoch) return false;
  if (placement == Placement::kResident && !IsLive(it->second.worker)) return false;
  ChangePlacement(&it->second, placement);
  return true;
}

void Registry::SetRevision(const std::string& session_id, uint64_t revision) {
  const auto it = sessions_.find(session_id);
  if (it != sessions_.end()) it->second.revision = revision;
}

void Registry::UpdateFacts(const std::string& session_id, uint64_t epoch, uint64_t question,
                           const SessionFacts& facts) {
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end() || it->second.epoch != epoch) return;
  if (it->second.facts_question > question) return;
  it->second.facts = facts;
  it->second.facts_question = question;
}

void Registry::MarkUsed(const std::string& session_id, absl::Time now,
                        std::optional<int64_t> n_tokens) {
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end()) return;
  it->second.used = true;
  it->second.system_prompt.clear();
  it->second.last_use_time = now;
  if (n_tokens.has_value()) it->second.facts.n_tokens = *n_tokens;
}

void Registry::Remove(const std::string& session_id) {
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end()) return;
  ChangePlacement(&it->second, Placement::kOffloaded);
  sessions_.erase(it);
}

const Session* Registry::Find(const std::string& session_id) const {
  const auto it = sessions_.find(session_id);
  return it == sessions_.end() ? nullptr : &it->second;
}

std::vector<std::string> Registry::SessionsOn(const std::string& worker_id) const {
  std::vector<std::string> ids;
  for (const auto& [id, session] : sessions_) {
    if (session.placement == Placement::kResident && session.worker == worker_id) ids.push_back(id);
  }
  return ids;
}

std::string Registry::KeeperOf(const std::string& session_id) const {
  const Session* session = Find(session_id);
  if (session == nullptr || session->placement != Placement::kRecovering) return "";
  std::string keeper;
  uint64_t epoch = 0;
  for (const auto& [worker_id, held] : last_held_) {
    if (!IsLive(worker_id)) continue;
    for (const HeldSession& report : held) {
      // A larger epoch than ours is an earlier session's of this id, about to be revoked.
      const bool is_ours = report.session_id == session_id && report.epoch <= session->epoch;
      if (!is_ours || report.epoch <= epoch) continue;
      keeper = worker_id;
      epoch = report.epoch;
    }
  }
  return keeper;
}

Reconciled Registry::Reconcile(const std::string& worker_id, const std::vector<HeldSession>& held) {
  Reconciled result;
  last_held_[worker_id] = held;
  for (const HeldSession& report : held) {
    const auto it = sessions_.find(report.session_id);
    // An id alone does not say which session: after a journal was lost, a worker may come back with
    // one of before, of another tenant even, at whatever epoch that had.
    const bool is_earlier_session =
        it != sessions_.end() && it->second.is_born_here && report.epoch > it->second.epoch;
    if (it == sessions_.end() || is_earlier_session) {
      result.revoked.push_back(report);
      continue;
    }
    Session& session = it->second;
    if (report.epoch < session.epoch) {
      // A copy of a session that nobody has may be newer than the store's: its worker keeps it
      // until somebody has the session again.
      if (session.placement != Placement::kRecovering) result.revoked.push_back(report);
      continue;
    }
    if (report.epoch > session.epoch) {
      // Our record is older than the cluster (a journal from a backup): the larger epoch owns.
      ChangePlacement(&session, Placement::kOffloaded);
      session.epoch = report.epoch;
      session.worker = worker_id;
      ChangePlacement(&session, Placement::kResident);
      result.changed.push_back(session.session_id);
    } else if (session.worker != worker_id || session.placement == Placement::kOffloaded) {
      result.revoked.push_back(report);
    } else if (session.placement == Placement::kRecovering) {
      ChangePlacement(&session, Placement::kResident);
      result.changed.push_back(session.session_id);
    }
  }
  return result;
}

void Registry::LoseSessionsOf(const std::string& worker_id, std::vector<std::string>* changed) {
  for (const std::string& id : SessionsOn(worker_id)) {
    ChangePlacement(&sessions_.at(id), Placement::kRecovering);
    changed->push_back(id);
  }
}

void Registry::ChangePlacement(Session* session, Placement placement) {
  const auto worker = workers_.find(session->worker);
  if (worker != workers_.end()) {
    if (session->placement == Placement::kResident) --worker->second.n_sessions;
    if (placement == Placement::kResident) ++worker->second.n_sessions;
    SettleDraining(&worker->second);
  }
  session->placement = placement;
}

}  // namespace lexico::coord

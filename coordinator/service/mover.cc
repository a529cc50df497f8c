#include "coordinator/service/mover.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "coordinator/service/convert.h"
#include "coordinator/service/errors.h"
#include "coordinator/service/worker_call.h"
#include "proto/rpc/status_map.h"
#include "proto/rpc/timestamp.h"

namespace lexico::coord {
namespace {

using StubInterface = v1::WorkerService::StubInterface;

// Opening and forking copy at most a window.
constexpr absl::Duration kShortTimeout = absl::Seconds(10);

v1::SessionAtEpoch AtEpoch(const std::string& session_id, uint64_t epoch) {
  v1::SessionAtEpoch out;
  out.set_session_id(session_id);
  out.set_epoch(epoch);
  return out;
}

}  // namespace

absl::StatusOr<Located> Mover::Locate(const Caller& caller, const Hold& hold) {
  WaitUntilSettled(hold);
  const absl::Time begin = cluster_.Now();
  RouteRequest request;
  {
    const Session session = cluster_.Held(hold);
    request.model = session.model;
    request.model_identity = session.model_identity;
  }
  absl::Status last;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    // Twice a lease: a worker that restarts is back by then, and one that died has been noticed.
    const auto wait = last.ok() ? 2 * cluster_.options().lease : absl::ZeroDuration();
    const auto route = cluster_.ChooseWorker(caller, request, hold.session_id(), wait);
    if (!route.ok()) return last.ok() ? route.status() : last;
    if (route->reason != RouteReason::kAffinity) {
      last = TakeUp(hold, route->worker_id);
      // Two workers agree about the store: a third would only wait for it again.
      if (attempt > 0 && rpc::ReasonOf(last) == "store_unavailable") return last;
      if (IsWorthAnotherWorker(last) || IsStaleOwner(last)) {
        request.excluded.insert(route->worker_id);
        continue;
      }
      if (!last.ok()) return last;
    }
    auto stub = cluster_.StubOf(route->worker_id);
    if (!stub.ok()) {
      last = stub.status();
      continue;
    }
    const auto took =
        route->reason == RouteReason::kAffinity ? absl::ZeroDuration() : cluster_.Now() - begin;
    return Located{route->worker_id, *std::move(stub), cluster_.Held(hold).epoch, took};
  }
  return last;
}

absl::Status Mover::TakeUpOn(const Hold& hold, const std::string& worker_id) {
  return TakeUp(hold, worker_id);
}

absl::Status Mover::TakeUp(const Hold& hold, const std::string& worker_id) {
  const Session before = cluster_.Held(hold);
  const bool is_recovery = before.placement == Placement::kRecovering;
  LEXICO_ASSIGN_OR_RETURN(const uint64_t epoch,
                          cluster_.ChangeOwner(hold, worker_id, Placement::kResident));
  v1::RestoreRequest request;
  request.set_session_id(hold.session_id());
  request.set_epoch(epoch);
  request.set_tenant(before.tenant);
  *request.mutable_create_time() = rpc::TimeToProto(before.create_time);
  v1::Session restored;
  absl::Status status = CallWorker(cluster_, worker_id, &StubInterface::Restore, request, &restored,
                                   cluster_.options().move_timeout);
  // A worker without a store says FailedPrecondition; an unused session needs none.
  if (absl::IsNotFound(status) || (absl::IsFailedPrecondition(status) && !before.used)) {
    status = before.used ? rpc::WithDetail(absl::DataLossError(fmt::format(
                                               "the store has nothing of session {} ({} tokens)",
                                               hold.session_id(), before.facts.n_tokens)),
                                           "session_lost")
                         : OpenAt(before, worker_id, epoch, &restored);
  }
  if (is_recovery) {
    cluster_.metrics()
        .Counter("lexico_recoveries_total", {status.ok() ? "ok" : "failed"})
        .Increment();
  }
  if (status.ok()) {
    cluster_.Confirm(hold, epoch, Placement::kResident, FactsFromProto(restored));
    return status;
  }
  spdlog::warn("session {} not taken up by worker {}: {}", hold.session_id(), worker_id,
               std::string(status.message()));
  if (IsTransportFailure(status)) cluster_.MarkUnreachable(worker_id);
  // The worker may have it all the same (its answer was lost): the next epoch takes it away again.
  const auto fenced = cluster_.ChangeOwner(
      hold, "",
      before.placement == Placement::kRecovering ? Placement::kRecovering : Placement::kOffloaded);
  return fenced.ok() ? status : fenced.status();
}

absl::Status Mover::OpenAt(const Session& session, const std::string& worker_id, uint64_t epoch,
                           v1::Session* opened) {
  v1::OpenSessionRequest request;
  request.set_session_id(session.session_id);
  request.set_epoch(epoch);
  request.set_profile(session.profile);
  request.set_min_profile(session.min_profile);
  request.set_format(static_cast<v1::TextFormat>(session.format));
  request.set_system_prompt(session.system_prompt);
  request.set_tenant(session.tenant);
  *request.mutable_create_time() = rpc::TimeToProto(session.create_time);
  return CallWorker(cluster_, worker_id, &StubInterface::OpenSession, request, opened,
                    kShortTimeout);
}

absl::Status Mover::Open(const Caller& caller, const Hold& hold, Session session) {
  RouteRequest request{.model = session.model, .model_identity = session.model_identity};
  absl::Status last;
  bool is_created = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto route = cluster_.ChooseWorker(caller, request, "", absl::ZeroDuration());
    if (!route.ok()) {
      if (last.ok()) last = route.status();
      break;
    }
    uint64_t epoch = 0;
    if (!is_created) {
      session.worker = route->worker_id;
      session.placement = Placement::kResident;
      LEXICO_ASSIGN_OR_RETURN(session, cluster_.Create(hold, session));
      epoch = session.epoch;
      is_created = true;
    } else {
      LEXICO_ASSIGN_OR_RETURN(epoch,
                              cluster_.ChangeOwner(hold, route->worker_id, Placement::kResident));
    }
    v1::Session opened;
    last = OpenAt(session, route->worker_id, epoch, &opened);
    if (last.ok()) {
      cluster_.Confirm(hold, epoch, Placement::kResident, FactsFromProto(opened));
      return last;
    }
    if (IsTransportFailure(last)) cluster_.MarkUnreachable(route->worker_id);
    if (absl::IsAlreadyExists(last) || IsStaleOwner(last)) {
      // Left from a deleted session of that id; its next heartbeat makes the worker drop it.
      last = rpc::WithDetail(absl::UnavailableError(last.message()), "session_moving",
                             cluster_.options().lease / 3);
    }
    if (!IsWorthAnotherWorker(last)) break;
    request.excluded.insert(route->worker_id);
  }
  if (is_created) LEXICO_RETURN_IF_ERROR(cluster_.Remove(hold));
  return last;
}

absl::Status Mover::Offload(const Hold& hold) {
  const Session session = cluster_.Held(hold);
  switch (session.placement) {
    case Placement::kOffloaded:
      return absl::OkStatus();
    case Placement::kRecovering:
      // The store has what was acknowledged; a returning owner must not have it as well.
      return cluster_.ChangeOwner(hold, "", Placement::kOffloaded).status();
    case Placement::kResident:
      return OffloadFrom(hold, session);
  }
  return absl::OkStatus();
}

void Mover::WaitUntilSettled(const Hold& hold) {
  if (!cluster_.TakeUnsettled(hold)) return;
  const absl::Time deadline = cluster_.Now() + kSettleTimeout;
  while (cluster_.Now() < deadline) {
    const Session session = cluster_.Held(hold);
    if (session.placement != Placement::kResident) return;
    v1::Session described;
    const absl::Status status =
        CallWorker(cluster_, session.worker, &StubInterface::Describe,
                   AtEpoch(session.session_id, session.epoch), &described, kShortTimeout);
    if (!status.ok() || described.state() != v1::SESSION_STATE_BUSY) return;
    absl::SleepFor(kSettlePoll);
  }
}

absl::Status Mover::OffloadFrom(const Hold& hold, const Session& session) {
  WaitUntilSettled(hold);
  v1::Session offloaded;
  const absl::Status status = CallWorker(cluster_, session.worker, &StubInterface::Offload,
                                         AtEpoch(session.session_id, session.epoch), &offloaded,
                                         cluster_.options().move_timeout);
  if (status.ok()) {
    SessionFacts facts = FactsFromProto(offloaded);
    if (facts.tier == v1::TIER_UNSPECIFIED) facts.tier = v1::TIER_HOST;
    cluster_.Confirm(hold, session.epoch, Placement::kOffloaded, facts);
    return status;
  }
  if (IsTransportFailure(status) || IsStaleOwner(status)) {
    LEXICO_RETURN_IF_ERROR(Fence(hold, session.worker, IsTransportFailure(status)));
    return WorkerLost(session.session_id, session.worker,
                      "the store has what was acknowledged; retry");
  }
  return status;
}

absl::Status Mover::CheckTarget(const Session& session, const std::string& worker_id) {
  LEXICO_ASSIGN_OR_RETURN(const Worker worker, cluster_.FindWorker(worker_id));
  const std::string obstacle = Obstacle(worker, session.model, session.model_identity);
  if (obstacle.empty()) return absl::OkStatus();
  const std::string text =
      fmt::format("worker {} cannot take session {}: {}", worker_id, session.session_id, obstacle);
  const bool is_only_full = worker.state == WorkerState::kReady && !worker.unreachable &&
                            worker.model.name == session.model &&
                            worker.model.identity == session.model_identity;
  if (is_only_full) {
    return rpc::WithDetail(absl::ResourceExhaustedError(text), "worker_full",
                           cluster_.options().lease / 3);
  }
  return rpc::WithDetail(absl::FailedPreconditionError(text), "worker_unsuitable");
}

absl::StatusOr<std::string> Mover::ChooseTarget(const Caller& caller, const Session& session) {
  const RouteRequest request{
      .leave_holder = true, .model = session.model, .model_identity = session.model_identity};
  LEXICO_ASSIGN_OR_RETURN(
      const Route route,
      cluster_.ChooseWorker(caller, request, session.session_id, absl::ZeroDuration()));
  return route.worker_id;
}

absl::Status Mover::Migrate(const Caller& caller, const Hold& hold, const std::string& target) {
  const Session session = cluster_.Held(hold);
  std::string worker_id = target;
  if (worker_id.empty()) {
    LEXICO_ASSIGN_OR_RETURN(worker_id, ChooseTarget(caller, session));
  } else if (session.placement == Placement::kResident && session.worker == worker_id) {
    return cluster_.FindWorker(worker_id).status();
  } else {
    LEXICO_RETURN_IF_ERROR(CheckTarget(session, worker_id));
  }
  const absl::Time begin = cluster_.Now();
  const bool was_resident = session.placement == Placement::kResident;
  if (was_resident) {
    const absl::Status offloaded = OffloadFrom(hold, session);
    // A source that was lost just now is no reason to stop: the store has the session.
    const bool is_recovering = cluster_.Held(hold).placement == Placement::kRecovering;
    if (!offloaded.ok() && !is_recovering) return offloaded;
  }
  absl::Status status = TakeUp(hold, worker_id);
  cluster_.metrics()
      .Counter("lexico_migrations_total", {status.ok() ? "ok" : "failed"})
      .Increment();
  if (status.ok()) {
    cluster_.metrics()
        .Histogram("lexico_migration_seconds")
        .Observe(absl::ToDoubleSeconds(cluster_.Now() - begin));
    return status;
  }
  if (!was_resident) return status;
  const bool is_back = TakeUp(hold, session.worker).ok();
  return base::Annotate(
      status,
      is_back ? fmt::format("session {} is back on worker {}", session.session_id, session.worker)
              : fmt::format("session {} is in the store", session.session_id));
}

absl::Status Mover::Demote(const Caller& caller, const Hold& hold, const std::string& profile) {
  LEXICO_ASSIGN_OR_RETURN(const Located located, Locate(caller, hold));
  v1::DemoteRequest request;
  *request.mutable_session() = AtEpoch(hold.session_id(), located.epoch);
  request.set_profile(profile);
  v1::Session demoted;
  const absl::Status status = CallWorker(cluster_, located.worker_id, &StubInterface::Demote,
                                         request, &demoted, cluster_.options().move_timeout);
  if (status.ok()) {
    cluster_.Confirm(hold, located.epoch, Placement::kResident, FactsFromProto(demoted));
    return status;
  }
  if (!IsTransportFailure(status) && !IsStaleOwner(status)) return status;
  LEXICO_RETURN_IF_ERROR(Fence(hold, located.worker_id, IsTransportFailure(status)));
  return WorkerLost(hold.session_id(), located.worker_id, "it may not be demoted; retry");
}

absl::Status Mover::Fork(const Caller& caller, const Hold& parent, const Hold& child) {
  LEXICO_ASSIGN_OR_RETURN(Located located, Locate(caller, parent));
  LEXICO_ASSIGN_OR_RETURN(const Worker worker, cluster_.FindWorker(located.worker_id));
  if (worker.state != WorkerState::kReady) {
    // A draining worker takes no new session: both go elsewhere.
    LEXICO_RETURN_IF_ERROR(Migrate(caller, parent, ""));
    LEXICO_ASSIGN_OR_RETURN(located, Locate(caller, parent));
  }
  Session session = cluster_.Held(parent);
  session.parent = session.session_id;
  session.session_id = child.session_id();
  session.worker = located.worker_id;
  session.placement = Placement::kResident;
  session.create_fingerprint.clear();
  LEXICO_ASSIGN_OR_RETURN(session, cluster_.Create(child, session));

  v1::WorkerForkRequest request;
  *request.mutable_session() = AtEpoch(parent.session_id(), located.epoch);
  request.set_new_session_id(session.session_id);
  request.set_new_epoch(session.epoch);
  *request.mutable_create_time() = rpc::TimeToProto(session.create_time);
  v1::Session forked;
  const absl::Status status = CallWorker(cluster_, located.worker_id, &StubInterface::Fork, request,
                                         &forked, kShortTimeout);
  if (status.ok()) {
    cluster_.Confirm(child, session.epoch, Placement::kResident, FactsFromProto(forked));
    return status;
  }
  LEXICO_RETURN_IF_ERROR(cluster_.Remove(child));
  if (!IsTransportFailure(status) && !IsStaleOwner(status)) return status;
  LEXICO_RETURN_IF_ERROR(Fence(parent, located.worker_id, IsTransportFailure(status)));
  return WorkerLost(parent.session_id(), located.worker_id, "nothing was forked; retry");
}

absl::Status Mover::Fence(const Hold& hold, const std::string& worker_id, bool was_transport) {
  if (was_transport) cluster_.MarkUnreachable(worker_id);
  spdlog::warn("session {} is taken from worker {}, which {}", hold.session_id(), worker_id,
               was_transport ? "cannot be reached" : "does not hold it");
  return cluster_.ChangeOwner(hold, "", Placement::kRecovering).status();
}

}  // namespace lexico::coord

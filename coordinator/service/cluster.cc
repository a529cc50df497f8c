// Workers, time and gauges. Sessions are in cluster_sessions.cc.
#include "coordinator/service/cluster.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <set>

#include "coordinator/registry/session_record.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/errors.h"
#include "coordinator/service/keys.h"
#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"

namespace lexico::coord {

Cluster::Cluster(const ClusterOptions& options, ClusterState& state, base::Metrics& metrics,
                 base::Clock& clock)
    : options_(options),
      state_(state),
      metrics_(metrics),
      clock_(clock),
      registry_(options.lease),
      admission_(options.admission) {}

absl::Status Cluster::Recover() {
  LEXICO_ASSIGN_OR_RETURN(const auto sessions, state_.List(kSessionPrefix));
  LEXICO_ASSIGN_OR_RETURN(const auto draining, state_.List(kDrainingPrefix));
  for (const StateEntry& entry : sessions) {
    auto session = DecodeSession(entry.value);
    if (!session.ok()) {
      return base::Annotate(session.status(), fmt::format("record {}", entry.key));
    }
    session->revision = entry.revision;
    absl::MutexLock lock(&mutex_);
    registry_.Load(*std::move(session), clock_.Now());
  }
  LEXICO_RETURN_IF_ERROR(RecoverDeletions());
  absl::MutexLock lock(&mutex_);
  for (const StateEntry& entry : draining) {
    registry_.RestoreDraining(entry.key.substr(kDrainingPrefix.size()));
  }
  if (!sessions.empty()) spdlog::info("{} sessions taken up from the journal", sessions.size());
  return absl::OkStatus();
}

void Cluster::BeginShutdown() {
  absl::MutexLock lock(&mutex_);
  is_stopping_ = true;
  changed_.SignalAll();
}

bool Cluster::IsStopping() {
  absl::MutexLock lock(&mutex_);
  return is_stopping_;
}

void Cluster::Tick() {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = clock_.Now();
  const Expired expired = registry_.Expire(now);
  for (const std::string& worker_id : expired.workers) {
    spdlog::warn("worker {} lost: no heartbeat for {}", worker_id,
                 absl::FormatDuration(registry_.lease()));
  }
  if (!expired.changed.empty()) {
    spdlog::warn("{} sessions of lost workers will be taken up elsewhere", expired.changed.size());
  }
  if (!expired.workers.empty()) changed_.SignalAll();
  // A worker that is gone for good takes its connection along.
  std::erase_if(links_, [&](const auto& link) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return registry_.FindWorker(link.first) == nullptr;
  });
  SetGauges(now);
}

void Cluster::SetGauges(absl::Time now) {
  std::map<v1::SessionState, int> by_session_state;
  for (const auto& [id, session] : registry_.sessions()) {
    ++by_session_state[StateOf(session, admission_.ActivityOf(id))];
  }
  static constexpr std::array<std::pair<v1::SessionState, const char*>, 5> kSessionStates = {
      {{v1::SESSION_STATE_READY, "ready"},
       {v1::SESSION_STATE_BUSY, "busy"},
       {v1::SESSION_STATE_OFFLOADED, "offloaded"},
       {v1::SESSION_STATE_MOVING, "moving"},
       {v1::SESSION_STATE_RECOVERING, "recovering"}}};
  for (const auto& [state, name] : kSessionStates) {
    metrics_.Gauge("lexico_sessions", {name}).Set(by_session_state[state]);
  }
  std::map<WorkerState, int> by_worker_state;
  absl::Duration oldest = absl::ZeroDuration();
  for (const auto& [id, worker] : registry_.workers()) {
    ++by_worker_state[worker.state];
    if (worker.state != WorkerState::kLost) oldest = std::max(oldest, now - worker.last_heartbeat);
  }
  for (const WorkerState state :
       {WorkerState::kReady, WorkerState::kDraining, WorkerState::kDrained, WorkerState::kLost}) {
    metrics_.Gauge("lexico_workers", {std::string(WorkerStateName(state))})
        .Set(by_worker_state[state]);
  }
  metrics_.Gauge("lexico_worker_heartbeat_age_seconds").Set(absl::ToDoubleSeconds(oldest));
  metrics_.Gauge("lexico_deletions_pending").Set(static_cast<double>(deletions_.size()));
  metrics_.Gauge("lexico_journal_bytes").Set(static_cast<double>(state_.SizeBytes()));
}

absl::StatusOr<Reconciled> Cluster::Register(const Registration& registration,
                                             const v1::ModelInfo& model) {
  LEXICO_ASSIGN_OR_RETURN(auto channel, rpc::MakeChannel(registration.address, options_.tls));
  // A worker that restarted at the same address is reached at once, not after the back-off that its
  // predecessor's death began.
  grpc::experimental::ChannelResetConnectionBackoff(channel.get());
  absl::MutexLock lock(&mutex_);
  auto reconciled = registry_.Register(registration, clock_.Now());
  if (!reconciled.ok()) return rpc::WithDetail(reconciled.status(), "worker_id_taken");
  SpareUndecided(&*reconciled);
  links_[registration.worker_id] = {registration.address, v1::WorkerService::NewStub(channel),
                                    model};
  spdlog::info("worker {} at {} registered: model {}, holds {} sessions, {} revoked",
               registration.worker_id, registration.address, registration.model.name,
               registration.sessions.size(), reconciled->revoked.size());
  for (const std::string& session_id : registry_.SessionsOn(registration.worker_id)) {
    MarkStale(session_id);
  }
  changed_.SignalAll();
  return reconciled;
}

absl::StatusOr<Reconciled> Cluster::Heartbeat(const v1::HeartbeatRequest& request) {
  absl::MutexLock lock(&mutex_);
  auto reconciled =
      registry_.Heartbeat(request.worker_id(), request.lease_id(), LoadFromProto(request.load()),
                          HeldFromProto(request.sessions()), clock_.Now());
  if (!reconciled.ok()) return rpc::WithDetail(reconciled.status(), "lease_unknown");
  for (const std::string& session_id : reconciled->changed) MarkStale(session_id);
  SpareUndecided(&*reconciled);
  changed_.SignalAll();
  return reconciled;
}

void Cluster::SpareUndecided(Reconciled* reconciled) const {
  std::erase_if(reconciled->revoked, [this](const HeldSession& held) {
    const Session* session = registry_.Find(held.session_id);
    return session != nullptr && held.epoch < session->epoch &&
           admission_.ActivityOf(held.session_id) != Activity::kNone;
  });
}

absl::StatusOr<Reconciled> Cluster::Deregister(const v1::DeregisterRequest& request) {
  const std::string& worker_id = request.worker_id();
  absl::StatusOr<Reconciled> reconciled;
  {
    absl::MutexLock lock(&mutex_);
    reconciled = registry_.Deregister(worker_id, request.lease_id());
    if (!reconciled.ok()) return rpc::WithDetail(reconciled.status(), "lease_unknown");
    links_.erase(worker_id);
    changed_.SignalAll();
  }
  spdlog::info("worker {} left in order; it gave up {} sessions", worker_id,
               reconciled->changed.size());
  // In an orderly end of the whole cluster we are next, and must know them as offloaded afterwards.
  for (const std::string& session_id : reconciled->changed) {
    const absl::Status status = Persist(session_id, Durability::kLazy);
    if (!status.ok()) spdlog::warn("placement not written: {}", std::string(status.message()));
  }
  const std::string key = std::string(kDrainingPrefix) + worker_id;
  LEXICO_ASSIGN_OR_RETURN(const auto draining, state_.List(key));
  for (const StateEntry& entry : draining) {
    if (entry.key == key) LEXICO_RETURN_IF_ERROR(state_.Delete(key, entry.revision));
  }
  return reconciled;
}

absl::Status Cluster::SetDraining(const std::string& worker_id, bool draining) {
  {
    absl::MutexLock lock(&mutex_);
    const absl::Status status = registry_.SetDraining(worker_id, draining);
    if (!status.ok()) return rpc::WithDetail(status, "worker_unknown");
    changed_.SignalAll();
  }
  const std::string key = std::string(kDrainingPrefix) + worker_id;
  LEXICO_ASSIGN_OR_RETURN(const auto entries, state_.List(key));
  const auto entry = std::find_if(entries.begin(), entries.end(),
                                  [&](const StateEntry& e) { return e.key == key; });
  if (draining && entry == entries.end()) {
    return state_.Put(key, "", 0, Durability::kDurable).status();
  }
  if (!draining && entry != entries.end()) return state_.Delete(key, entry->revision);
  return absl::OkStatus();
}

void Cluster::MarkUnreachable(const std::string& worker_id) {
  absl::MutexLock lock(&mutex_);
  registry_.MarkUnreachable(worker_id);
}

std::vector<v1::Worker> Cluster::ListWorkers() {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::Worker> workers;
  for (const auto& [id, worker] : registry_.workers()) {
    const auto link = links_.find(id);
    workers.push_back(
        WorkerToProto(worker, link == links_.end() ? v1::ModelInfo() : link->second.model));
  }
  return workers;
}

std::vector<v1::ModelInfo> Cluster::ListModels() {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::ModelInfo> models;
  std::set<std::pair<std::string, std::string>> seen;
  for (const auto& [id, link] : links_) {
    const WorkerModel model = ModelFromProto(link.model);
    if (registry_.IsLive(id) && seen.emplace(model.name, model.identity).second) {
      models.push_back(link.model);
    }
  }
  std::sort(models.begin(), models.end(), [](const v1::ModelInfo& a, const v1::ModelInfo& b) {
    return std::tie(a.name(), a.fingerprint()) < std::tie(b.name(), b.fingerprint());
  });
  return models;
}

absl::StatusOr<v1::ModelInfo> Cluster::FindModel(const std::string& name) {
  const std::vector<v1::ModelInfo> models = ListModels();
  if (models.empty()) {
    return rpc::WithDetail(absl::UnavailableError("no worker is registered"), "no_worker",
                           options_.lease);
  }
  std::set<std::string> names;
  for (const v1::ModelInfo& model : models) names.insert(model.name());
  std::string list;
  for (const std::string& known : names) list += (list.empty() ? "" : ", ") + known;
  if (name.empty() && names.size() > 1) {
    return rpc::WithDetail(
        absl::InvalidArgumentError(fmt::format("model is empty, and several are served: {}", list)),
        "model_ambiguous");
  }
  for (const v1::ModelInfo& model : models) {
    if (name.empty() || model.name() == name) return model;
  }
  return rpc::WithDetail(
      absl::NotFoundError(fmt::format("no model {}; served are: {}", name, list)), "model_unknown");
}

absl::StatusOr<Worker> Cluster::FindWorker(const std::string& worker_id) {
  absl::MutexLock lock(&mutex_);
  if (registry_.IsLive(worker_id)) return *registry_.FindWorker(worker_id);
  return rpc::WithDetail(absl::NotFoundError(fmt::format("no worker {}; the live workers are: {}",
                                                         worker_id, registry_.WorkerNames())),
                         "worker_unknown");
}

absl::StatusOr<std::string> Cluster::AnyWorker(const std::string& model) {
  absl::MutexLock lock(&mutex_);
  const Worker* found = nullptr;
  for (const auto& [id, worker] : registry_.workers()) {
    if (!registry_.IsLive(id) || (!model.empty() && worker.model.name != model)) continue;
    if (found == nullptr || (found->unreachable && !worker.unreachable)) found = &worker;
  }
  if (found != nullptr) return found->worker_id;
  return rpc::WithDetail(absl::UnavailableError(fmt::format("no live worker{}",
                                                            model.empty() ? "" : " with " + model)),
                         "no_worker", options_.lease);
}

absl::StatusOr<WorkerStub> Cluster::StubOf(const std::string& worker_id) {
  absl::MutexLock lock(&mutex_);
  const auto it = links_.find(worker_id);
  // Without a reason word: to be taken as a failed connection (errors.h).
  if (it == links_.end()) return absl::UnavailableError(fmt::format("worker {} left", worker_id));
  return it->second.stub;
}

}  // namespace lexico::coord

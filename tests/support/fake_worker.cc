#include "tests/support/fake_worker.h"

#include <fmt/format.h>

#include <numeric>

#include "absl/time/clock.h"
#include "proto/base/check.h"
#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"
#include "proto/rpc/timestamp.h"

namespace lexico::tests {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(2);
// A running sleep looks this often whether its call was cancelled: a "step".
constexpr absl::Duration kStep = absl::Milliseconds(2);

std::vector<int32_t> IdsOf(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

void Extend(std::vector<int32_t>* ids, const std::vector<int32_t>& more) {
  ids->insert(ids->end(), more.begin(), more.end());
}

// False when the call was cancelled meanwhile.
bool SleepInCall(grpc::ServerContext* context, absl::Duration duration) {
  const absl::Time end = absl::Now() + duration;
  while (!context->IsCancelled()) {
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return true;
    absl::SleepFor(std::min(left, kStep));
  }
  return false;
}

absl::Status Stale(const std::string& session_id, uint64_t held, uint64_t asked) {
  return rpc::WithDetail(absl::AbortedError(fmt::format("session {} is at epoch {}, asked for {}",
                                                        session_id, held, asked)),
                         "epoch_stale");
}

absl::Status StoreDown() {
  return rpc::WithDetail(absl::UnavailableError("the fake store is down"), "store_unavailable");
}

v1::Session ToProto(const std::string& session_id, const FakeSession& session) {
  v1::Session out;
  out.set_session_id(session_id);
  out.set_profile(session.profile);
  out.set_min_profile(session.min_profile);
  out.set_format(session.format);
  out.set_tier(v1::TIER_DEVICE);
  out.set_epoch(session.epoch);
  const auto n_tokens = static_cast<int64_t>(session.ids.size());
  out.set_n_tokens(n_tokens);
  out.set_n_sealed_tokens(n_tokens / 32 * 32);
  out.mutable_memory()->set_code_bytes(static_cast<uint64_t>(10 * n_tokens));
  out.mutable_memory()->set_fp16_equivalent_bytes(static_cast<uint64_t>(100 * n_tokens));
  return out;
}

}  // namespace

int32_t FakeNextId(const std::vector<int32_t>& context) {
  const uint32_t hash = std::accumulate(
      context.begin(), context.end(), 2166136261u,
      [](uint32_t h, int32_t id) { return (h ^ static_cast<uint32_t>(id)) * 16777619u; });
  return 1000 + static_cast<int32_t>(hash >> 16) % 1000;
}

std::string FakeText(int32_t id) { return fmt::format("<{}>", id); }

absl::Status FakeStore::Put(const std::string& session_id, const FakeSession& session) {
  if (is_down_) return StoreDown();
  absl::MutexLock lock(&mutex_);
  const auto deleted = deleted_births_.find(session_id);
  if (deleted != deleted_births_.end() && session.create_time <= deleted->second) {
    return rpc::WithDetail(absl::NotFoundError("deleted: " + session_id), "session_deleted");
  }
  const auto birth = [](const FakeSession& s) { return absl::ToUnixMicros(s.create_time); };
  FakeSession& stored = sessions_.try_emplace(session_id, session).first->second;
  const bool is_same = birth(stored) == birth(session);
  if (birth(stored) > birth(session) || (is_same && stored.epoch > session.epoch))
    return Stale(session_id, stored.epoch, session.epoch);
  stored = session;
  return absl::OkStatus();
}

absl::StatusOr<FakeSession> FakeStore::Get(const std::string& session_id) {
  if (is_down_) return StoreDown();
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end()) return absl::NotFoundError("no manifest of " + session_id);
  return it->second;
}

absl::Status FakeStore::Delete(const std::string& session_id, uint64_t epoch) {
  if (is_down_) return StoreDown();
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end()) return absl::OkStatus();
  if (it->second.epoch > epoch) return Stale(session_id, it->second.epoch, epoch);
  deleted_births_[session_id] = it->second.create_time;
  sessions_.erase(it);
  return absl::OkStatus();
}

bool FakeStore::Has(const std::string& session_id) { return Get(session_id).ok(); }

FakeWorker::FakeWorker(const FakeWorkerOptions& options, FakeStore& store)
    : options_(options), store_(store), n_pages_free_(options.n_pages_free) {
  auto server = rpc::Server::Start("127.0.0.1:0", {this});
  LEXICO_CHECK(server.ok());
  server_ = *std::move(server);
  server_->SetServing(true);
  relay_ = std::make_unique<TcpRelay>(server_->port());
  registry_ = v1::WorkerRegistry::NewStub(*rpc::MakeChannel(options.coordinator));
  if (options.beats) beater_ = std::thread([this] { BeatUntilStopped(); });
}

FakeWorker::~FakeWorker() { Kill(); }

void FakeWorker::Kill() {
  is_stopped_ = true;
  relay_->Cut();
  if (beater_.joinable()) beater_.join();
  server_->Shutdown(absl::ZeroDuration());
}

void FakeWorker::BeatUntilStopped() {
  bool is_registered = false;
  while (!is_stopped_) {
    const grpc::Status status = is_registered ? Beat() : Register();
    is_registered = status.ok();
    int64_t lease_ms;
    {
      absl::MutexLock lock(&mutex_);
      lease_ms = lease_ms_;
    }
    // A refused or unanswered registration is tried again soon.
    const absl::Duration period = absl::Milliseconds(is_registered ? lease_ms / 3 : 20);
    const absl::Time next = absl::Now() + period;
    while (!is_stopped_ && absl::Now() < next) absl::SleepFor(kStep);
  }
}

grpc::Status FakeWorker::Register() {
  v1::RegisterRequest request;
  request.set_worker_id(options_.worker_id);
  request.set_address(fmt::format("127.0.0.1:{}", relay_->port()));
  *request.mutable_model() = Model();
  *request.mutable_load() = Load();
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, session] : sessions_) {
    v1::SessionAtEpoch* held = request.add_sessions();
    held->set_session_id(id);
    held->set_epoch(session.epoch);
  }
  grpc::ClientContext context;
  rpc::SetTimeout(context, kCallTimeout);
  v1::RegisterResponse response;
  const grpc::Status status = registry_->Register(&context, request, &response);
  if (!status.ok()) return status;
  lease_id_ = response.lease_id();
  lease_ms_ = response.lease_ms();
  for (const auto& revoked : response.revoked()) sessions_.erase(revoked.session_id());
  return status;
}

grpc::Status FakeWorker::Beat() {
  v1::HeartbeatRequest request;
  request.set_worker_id(options_.worker_id);
  *request.mutable_load() = Load();
  {
    absl::MutexLock lock(&mutex_);
    request.set_lease_id(lease_id_);
    for (const auto& [id, session] : sessions_) {
      v1::SessionAtEpoch* held = request.add_sessions();
      held->set_session_id(id);
      held->set_epoch(session.epoch);
    }
  }
  grpc::ClientContext context;
  rpc::SetTimeout(context, kCallTimeout);
  v1::HeartbeatResponse response;
  const grpc::Status status = registry_->Heartbeat(&context, request, &response);
  absl::MutexLock lock(&mutex_);
  for (const auto& revoked : response.revoked()) {
    const auto it = sessions_.find(revoked.session_id());
    if (it != sessions_.end() && it->second.epoch <= revoked.epoch()) sessions_.erase(it);
  }
  return status;
}

grpc::Status FakeWorker::Deregister() {
  v1::DeregisterRequest request;
  request.set_worker_id(options_.worker_id);
  {
    absl::MutexLock lock(&mutex_);
    request.set_lease_id(lease_id_);
  }
  grpc::ClientContext context;
  rpc::SetTimeout(context, kCallTimeout);
  v1::DeregisterResponse response;
  return registry_->Deregister(&context, request, &response);
}

void FakeWorker::FailRestore(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  failures_["Restore"] = std::move(status);
}
void FakeWorker::FailOffload(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  failures_["Offload"] = std::move(status);
}
void FakeWorker::FailRun(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  failures_["Run"] = std::move(status);
}

void FakeWorker::FailAfterFinished(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  failures_["Finished"] = std::move(status);
}

absl::Status FakeWorker::InjectedFailure(const std::string& method) {
  absl::MutexLock lock(&mutex_);
  const auto it = failures_.find(method);
  return it == failures_.end() ? absl::OkStatus() : it->second;
}

bool FakeWorker::Holds(const std::string& session_id) {
  absl::MutexLock lock(&mutex_);
  return sessions_.contains(session_id);
}

absl::Status FakeWorker::Sync(const std::string& session_id) {
  FakeSession session;
  {
    absl::MutexLock lock(&mutex_);
    session = sessions_.at(session_id);
  }
  return store_.Put(session_id, session);
}

uint64_t FakeWorker::EpochOf(const std::string& session_id) {
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(session_id);
  return it == sessions_.end() ? 0 : it->second.epoch;
}

absl::StatusOr<FakeSession> FakeWorker::Find(const v1::SessionAtEpoch& at) {
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(at.session_id());
  if (it == sessions_.end()) return absl::NotFoundError("no session " + at.session_id());
  if (it->second.epoch == at.epoch()) return it->second;
  const uint64_t held = it->second.epoch;
  if (held < at.epoch()) sessions_.erase(it);
  return Stale(at.session_id(), held, at.epoch());
}

FakeWorker::Use::~Use() {
  absl::MutexLock lock(&worker_->mutex_);
  worker_->busy_.erase(session_id_);
}

absl::StatusOr<std::unique_ptr<FakeWorker::Use>> FakeWorker::Take(const v1::SessionAtEpoch& at) {
  LEXICO_ASSIGN_OR_RETURN(FakeSession session, Find(at));
  absl::MutexLock lock(&mutex_);
  if (!busy_.insert(at.session_id()).second) {
    return rpc::WithDetail(absl::FailedPreconditionError("busy here: " + at.session_id()),
                           "session_busy");
  }
  auto use = std::make_unique<Use>(this, at.session_id());
  use->session = std::move(session);
  return use;
}

void FakeWorker::Keep(const std::string& session_id, const FakeSession& session) {
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(session_id);
  // Revoked or superseded while the call ran: not ours to write.
  if (it != sessions_.end() && it->second.epoch == session.epoch) it->second = session;
}

v1::ModelInfo FakeWorker::Model() const {
  v1::ModelInfo model;
  model.set_name(options_.model);
  model.set_fingerprint(options_.fingerprint);
  model.set_head_dim(32);
  model.set_n_atoms(1024);
  model.add_profiles("paper-s16");
  model.add_profiles("dense");
  model.set_has_chat_template(true);
  return model;
}

v1::WorkerLoad FakeWorker::Load() const {
  v1::WorkerLoad load;
  load.set_n_pages(options_.n_pages);
  load.set_n_pages_free(n_pages_free_);
  return load;
}

grpc::Status FakeWorker::OpenSession(grpc::ServerContext* context,
                                     const v1::OpenSessionRequest* request, v1::Session* response) {
  FakeSession session{.epoch = request->epoch(),
                      .tenant = request->tenant(),
                      .create_time = rpc::TimeFromProto(request->create_time()),
                      .profile = request->profile(),
                      .format = request->format(),
                      .ids = IdsOf(request->system_prompt()),
                      .min_profile = request->min_profile()};
  absl::MutexLock lock(&mutex_);
  if (!sessions_.emplace(request->session_id(), session).second) {
    return rpc::ToGrpc(absl::AlreadyExistsError("session " + request->session_id()));
  }
  *response = ToProto(request->session_id(), session);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Append(grpc::ServerContext* context,
                                grpc::ServerReader<v1::WorkerAppendRequest>* reader,
                                v1::AppendTextResponse* response) {
  v1::WorkerAppendRequest message;
  if (!reader->Read(&message)) return grpc::Status::CANCELLED;
  const v1::SessionAtEpoch at = message.session();
  const auto use = Take(at);
  if (!use.ok()) return rpc::ToGrpc(use.status());
  FakeSession* const session = &(*use)->session;
  const size_t n_before = session->ids.size();
  do {
    append_bytes_ += message.text().size();
    Extend(&session->ids, IdsOf(message.text()));
  } while (reader->Read(&message));
  if (!SleepInCall(context, absl::Microseconds(append_delay_us_.load()))) {
    ++n_appends_cancelled_;
    absl::SleepFor(absl::Microseconds(cancel_lag_us_.load()));
    return grpc::Status::CANCELLED;
  }
  const absl::Status stored = store_.Put(at.session_id(), *session);
  if (!stored.ok()) return rpc::ToGrpc(stored);
  Keep(at.session_id(), *session);
  *response->mutable_session() = ToProto(at.session_id(), *session);
  response->mutable_usage()->set_n_prompt_tokens(
      static_cast<int64_t>(session->ids.size() - n_before));
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Run(grpc::ServerContext* context, const v1::RunRequest* request,
                             grpc::ServerWriter<v1::GenerateEvent>* writer) {
  ++n_runs_;
  {
    absl::MutexLock lock(&mutex_);
    call_ids_.push_back(request->call_id());
  }
  if (const absl::Status failure = InjectedFailure("Run"); !failure.ok()) {
    return rpc::ToGrpc(failure);
  }
  const auto use = Take(request->session());
  if (!use.ok()) return rpc::ToGrpc(use.status());
  FakeSession* const session = &(*use)->session;
  const std::string& session_id = request->session().session_id();
  const v1::GenerateRequest& call = request->request();
  const auto position = static_cast<int64_t>(session->ids.size());
  v1::Usage usage;
  usage.set_n_context_tokens(static_cast<int64_t>(session->ids.size()));
  usage.set_n_prompt_tokens(static_cast<int64_t>(call.prompt().size()));
  Extend(&session->ids, IdsOf(call.prompt()));
  Extend(&session->ids, {request->resume_ids().begin(), request->resume_ids().end()});

  v1::GenerateEvent event;
  *event.mutable_started()->mutable_usage() = usage;
  const uint64_t seed = call.sampling().seed() != 0 ? call.sampling().seed() : 77;
  event.mutable_started()->set_seed(seed);
  event.mutable_started()->set_position(position);
  writer->Write(event);
  event.mutable_progress()->set_fraction(1);
  writer->Write(event);
  const int64_t n_tokens = call.max_new_tokens() == 0 ? 256 : call.max_new_tokens();
  for (int64_t index = request->resume_ids_size(); index < n_tokens; ++index) {
    if (!SleepInCall(context, absl::Microseconds(token_delay_us_.load()))) {
      ++n_runs_cancelled_;
      absl::SleepFor(absl::Microseconds(cancel_lag_us_.load()));
      Keep(session_id, *session);
      return grpc::Status::CANCELLED;
    }
    // The seed takes part, as in sampling: a resumed run with another seed would show.
    session->ids.push_back(static_cast<int32_t>(seed));
    const int32_t id = FakeNextId(session->ids);
    session->ids.back() = id;
    event.mutable_token()->set_index(index);
    event.mutable_token()->set_id(id);
    event.mutable_token()->set_text(FakeText(id));
    writer->Write(event);
    ++n_tokens_sent_;
  }
  const absl::Status stored = store_.Put(session_id, *session);
  if (!stored.ok()) return rpc::ToGrpc(stored);
  Keep(session_id, *session);
  usage.set_n_generated_tokens(n_tokens);
  event.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
  *event.mutable_finished()->mutable_usage() = usage;
  writer->Write(event);
  return rpc::ToGrpc(InjectedFailure("Finished"));
}

grpc::Status FakeWorker::Fork(grpc::ServerContext* context, const v1::WorkerForkRequest* request,
                              v1::Session* response) {
  const auto use = Take(request->session());
  if (!use.ok()) return rpc::ToGrpc(use.status());
  FakeSession* const session = &(*use)->session;
  session->epoch = request->new_epoch();
  session->create_time = rpc::TimeFromProto(request->create_time());
  const absl::Status stored = store_.Put(request->new_session_id(), *session);
  if (!stored.ok()) return rpc::ToGrpc(stored);
  absl::MutexLock lock(&mutex_);
  sessions_[request->new_session_id()] = *session;
  *response = ToProto(request->new_session_id(), *session);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Describe(grpc::ServerContext* context, const v1::SessionAtEpoch* request,
                                  v1::Session* response) {
  ++n_describes_;
  const auto session = Find(*request);
  if (!session.ok()) return rpc::ToGrpc(session.status());
  *response = ToProto(request->session_id(), *session);
  absl::SleepFor(absl::Microseconds(describe_delay_us_.exchange(0)));
  absl::MutexLock lock(&mutex_);
  response->set_state(busy_.contains(request->session_id()) ? v1::SESSION_STATE_BUSY
                                                            : v1::SESSION_STATE_READY);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Demote(grpc::ServerContext* context, const v1::DemoteRequest* request,
                                v1::Session* response) {
  if (const absl::Status failure = InjectedFailure("Demote"); !failure.ok()) {
    return rpc::ToGrpc(failure);
  }
  const auto use = Take(request->session());
  if (!use.ok()) return rpc::ToGrpc(use.status());
  (*use)->session.profile = request->profile();
  Keep(request->session().session_id(), (*use)->session);
  *response = ToProto(request->session().session_id(), (*use)->session);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Offload(grpc::ServerContext* context, const v1::SessionAtEpoch* request,
                                 v1::Session* response) {
  if (const absl::Status failure = InjectedFailure("Offload"); !failure.ok()) {
    return rpc::ToGrpc(failure);
  }
  const auto use = Take(*request);
  if (!use.ok()) return rpc::ToGrpc(use.status());
  const FakeSession* const session = &(*use)->session;
  const absl::Status stored = store_.Put(request->session_id(), *session);
  if (!stored.ok()) return rpc::ToGrpc(stored);
  *response = ToProto(request->session_id(), *session);
  response->set_tier(v1::TIER_HOST);
  absl::MutexLock lock(&mutex_);
  sessions_.erase(request->session_id());
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Restore(grpc::ServerContext* context, const v1::RestoreRequest* request,
                                 v1::Session* response) {
  if (const absl::Status failure = InjectedFailure("Restore"); !failure.ok()) {
    return rpc::ToGrpc(failure);
  }
  auto session = store_.Get(request->session_id());
  if (!session.ok()) return rpc::ToGrpc(session.status());
  if (session->tenant != request->tenant() ||
      session->create_time != rpc::TimeFromProto(request->create_time())) {
    return rpc::ToGrpc(absl::NotFoundError("an earlier session " + request->session_id()));
  }
  if (session->epoch > request->epoch()) {
    return rpc::ToGrpc(Stale(request->session_id(), session->epoch, request->epoch()));
  }
  session->epoch = request->epoch();
  const absl::Status stored = store_.Put(request->session_id(), *session);
  if (!stored.ok()) return rpc::ToGrpc(stored);
  *response = ToProto(request->session_id(), *session);
  absl::MutexLock lock(&mutex_);
  sessions_[request->session_id()] = *session;
  return grpc::Status::OK;
}

grpc::Status FakeWorker::Release(grpc::ServerContext* context, const v1::ReleaseRequest* request,
                                 v1::ReleaseResponse* response) {
  const std::string& session_id = request->session().session_id();
  if (request->delete_stored()) {
    // First: when the store cannot delete it now, the session stays whole.
    const absl::Status deleted = store_.Delete(session_id, request->session().epoch());
    if (!deleted.ok()) return rpc::ToGrpc(deleted);
  }
  absl::MutexLock lock(&mutex_);
  sessions_.erase(session_id);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                                  v1::ModelInfo* response) {
  *response = Model();
  return grpc::Status::OK;
}

grpc::Status FakeWorker::TokenizeText(grpc::ServerContext* context,
                                      const v1::TokenizeRequest* request,
                                      v1::TokenizeResponse* response) {
  for (const int32_t id : IdsOf(request->text())) response->add_ids(id);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::DetokenizeIds(grpc::ServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) {
  for (const int32_t id : request->ids())
    response->mutable_text()->push_back(static_cast<char>(id));
  return grpc::Status::OK;
}

}  // namespace lexico::tests

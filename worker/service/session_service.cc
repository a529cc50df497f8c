#include "worker/service/session_service.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <span>
#include <utility>

#include "absl/time/clock.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"
#include "proto/rpc/timestamp.h"
#include "worker/engine/errors.h"
#include "worker/service/append_call.h"
#include "worker/service/run_call.h"

namespace lexico::worker {
namespace {

absl::Status CheckSession(const std::string& session_id, uint64_t epoch) {
  if (session_id.empty() || session_id.size() > base::kNameBytesMax) {
    return absl::InvalidArgumentError(fmt::format("a session id has {} bytes, must have 1 to {}",
                                                  session_id.size(), base::kNameBytesMax));
  }
  if (epoch == 0) return absl::InvalidArgumentError("epoch is 0; epochs begin at 1");
  return absl::OkStatus();
}

// Of a new session, whole microseconds as in its manifest.
template <typename Request>
absl::Time BirthOf(const Request& request) {
  const absl::Time now = absl::FromUnixMicros(absl::ToUnixMicros(absl::Now()));
  return request.has_create_time() ? rpc::TimeFromProto(request.create_time()) : now;
}

SessionIdentity IdentityOf(const v1::RestoreRequest& request) {
  SessionIdentity identity{.session_id = request.session_id(), .tenant = request.tenant()};
  if (request.has_create_time()) identity.create_time = rpc::TimeFromProto(request.create_time());
  return identity;
}

absl::Status NoStore() {
  return rpc::WithDetail(
      absl::FailedPreconditionError("this worker has no cache store; start it with --store"),
      "no_store");
}

}  // namespace

absl::Status SessionService::Open(const v1::OpenSessionRequest& request, v1::Session* response) {
  if (context_.phase != Phase::kServing) return Leaving(context_);
  LEXICO_RETURN_IF_ERROR(CheckSession(request.session_id(), request.epoch()));
  SessionRecord record;
  LEXICO_ASSIGN_OR_RETURN(record.conversation, Conversation::Start(*context_.text, request.format(),
                                                                   request.system_prompt()));
  record.session_id = request.session_id();
  record.epoch = request.epoch();
  record.tenant = request.tenant();
  record.create_time = BirthOf(request);
  record.last_use_time = absl::Now();
  DropSession(context_, request.session_id(), request.epoch() - 1);
  LEXICO_ASSIGN_OR_RETURN(const SessionTable::Use use, context_.table->Add(record));
  const absl::Status opened =
      context_.engine->OpenSession(SessionSpec{.session_id = request.session_id(),
                                               .tenant = request.tenant(),
                                               .profile = request.profile(),
                                               .min_profile = request.min_profile()});
  if (!opened.ok()) {
    context_.table->Drop(request.session_id(), request.epoch());
    return FromEngine(opened);
  }
  LEXICO_ASSIGN_OR_RETURN(*response, DescribeSession(context_, record));
  return absl::OkStatus();
}

grpc::Status SessionService::OpenSession(grpc::ServerContext*,
                                         const v1::OpenSessionRequest* request,
                                         v1::Session* response) {
  CallRecorder recorder(context_.metrics, "OpenSession");
  return recorder.Finish(Open(*request, response));
}

grpc::Status SessionService::Append(grpc::ServerContext* rpc,
                                    grpc::ServerReader<v1::WorkerAppendRequest>* reader,
                                    v1::AppendTextResponse* response) {
  CallRecorder recorder(context_.metrics, "Append");
  if (n_uploads_.fetch_add(1) >= kUploadsMax) {
    n_uploads_.fetch_sub(1);
    context_.metrics->Counter("lexico_admission_rejections_total", {"queue_full"}).Increment();
    return recorder.Finish(rpc::WithDetail(
        absl::ResourceExhaustedError(
            fmt::format("{} documents are being appended, at most {}", kUploadsMax, kUploadsMax)),
        kReasonQueueFull, absl::Seconds(1)));
  }
  const absl::Status status = AppendDocument(
      context_, DeadlineOf(*rpc),
      [reader](v1::WorkerAppendRequest* message) { return reader->Read(message); },
      [rpc] { return rpc->IsCancelled(); }, response);
  n_uploads_.fetch_sub(1);
  return recorder.Finish(status);
}

grpc::Status SessionService::Run(grpc::ServerContext* rpc, const v1::RunRequest* request,
                                 grpc::ServerWriter<v1::GenerateEvent>* writer) {
  CallRecorder recorder(context_.metrics, "Run");
  if (const absl::Status status = CheckRunRequest(*request); !status.ok()) {
    return recorder.Finish(status);
  }
  RunCall call(
      context_, *request, DeadlineOf(*rpc),
      [writer](const v1::GenerateEvent& event) { return writer->Write(event); },
      [rpc] { return rpc->IsCancelled(); });
  return recorder.Finish(call.Run());
}

absl::Status SessionService::ForkSession(const v1::WorkerForkRequest& request,
                                         v1::Session* response) {
  LEXICO_RETURN_IF_ERROR(CheckSession(request.new_session_id(), request.new_epoch()));
  LEXICO_ASSIGN_OR_RETURN(const SessionTable::Use parent,
                          AcquireSession(context_, request.session()));
  SessionRecord record = parent.record;
  record.session_id = request.new_session_id();
  record.epoch = request.new_epoch();
  record.parent_session_id = parent.record.session_id;
  record.create_time = BirthOf(request);
  record.last_use_time = absl::Now();
  record.n_durable_tokens = 0;
  record.prefill_fraction = std::make_shared<std::atomic<double>>(0.0);
  DropSession(context_, record.session_id, record.epoch - 1);
  LEXICO_ASSIGN_OR_RETURN(SessionTable::Use child, context_.table->Add(record));
  const absl::Status forked = context_.engine->Fork(parent.record.session_id, record.session_id);
  if (!forked.ok()) {
    context_.table->Drop(record.session_id, record.epoch);
    return FromEngine(forked);
  }
  if (context_.store != nullptr) LEXICO_RETURN_IF_ERROR(context_.store->Commit(record));
  LEXICO_ASSIGN_OR_RETURN(record, context_.table->Get(record.session_id, record.epoch));
  LEXICO_ASSIGN_OR_RETURN(*response, DescribeSession(context_, record));
  return absl::OkStatus();
}

grpc::Status SessionService::Fork(grpc::ServerContext*, const v1::WorkerForkRequest* request,
                                  v1::Session* response) {
  CallRecorder recorder(context_.metrics, "Fork");
  return recorder.Finish(ForkSession(*request, response));
}

grpc::Status SessionService::Describe(grpc::ServerContext*, const v1::SessionAtEpoch* request,
                                      v1::Session* response) {
  CallRecorder recorder(context_.metrics, "Describe");
  const auto act = [&]() -> absl::Status {
    LEXICO_ASSIGN_OR_RETURN(const SessionRecord record,
                            context_.table->Get(request->session_id(), request->epoch()));
    LEXICO_ASSIGN_OR_RETURN(*response, DescribeSession(context_, record));
    // The engine is done, but the call has not given the session back: another would be refused.
    if (context_.table->IsInUse(request->session_id())) {
      response->set_state(v1::SESSION_STATE_BUSY);
    }
    return absl::OkStatus();
  };
  return recorder.Finish(act());
}

absl::Status SessionService::DemoteSession(const v1::DemoteRequest& request,
                                           v1::Session* response) {
  LEXICO_ASSIGN_OR_RETURN(const SessionTable::Use use, AcquireSession(context_, request.session()));
  const auto demoted = context_.engine->Demote(use.record.session_id, request.profile());
  if (!demoted.ok()) return FromEngine(demoted.status());
  *response = SessionToProto(context_, use.record, *demoted);
  return absl::OkStatus();
}

grpc::Status SessionService::Demote(grpc::ServerContext*, const v1::DemoteRequest* request,
                                    v1::Session* response) {
  CallRecorder recorder(context_.metrics, "Demote");
  return recorder.Finish(DemoteSession(*request, response));
}

absl::Status SessionService::OffloadSession(const v1::SessionAtEpoch& request, absl::Time deadline,
                                            v1::Session* response) {
  if (context_.store == nullptr) return NoStore();
  LEXICO_ASSIGN_OR_RETURN(SessionTable::Use use, AcquireSession(context_, request));
  LEXICO_RETURN_IF_ERROR(context_.store->Offload(use.record, deadline));
  LEXICO_ASSIGN_OR_RETURN(const SessionRecord record,
                          context_.table->Get(request.session_id(), request.epoch()));
  LEXICO_ASSIGN_OR_RETURN(*response, DescribeSession(context_, record));
  response->set_state(v1::SESSION_STATE_OFFLOADED);
  response->set_tier(v1::TIER_HOST);
  response->clear_worker();
  DropSession(context_, request.session_id(), request.epoch());
  return absl::OkStatus();
}

grpc::Status SessionService::Offload(grpc::ServerContext* rpc, const v1::SessionAtEpoch* request,
                                     v1::Session* response) {
  CallRecorder recorder(context_.metrics, "Offload");
  return recorder.Finish(OffloadSession(*request, DeadlineOf(*rpc), response));
}

absl::StatusOr<bool> SessionService::IsNewest(const v1::RestoreRequest& request,
                                              const SessionRecord& held, absl::Time deadline) {
  // A call that still runs here belongs to an owner that lost the session; so does what it left.
  // And a session of an earlier life of this id is none of the caller's.
  if (!held.is_settled || !IdentityOf(request).Is(held.tenant, held.create_time)) return false;
  if (context_.store == nullptr) return true;
  // Whoever owned the session since has put it at a larger epoch.
  LEXICO_ASSIGN_OR_RETURN(const uint64_t stored,
                          context_.store->StoredEpoch(IdentityOf(request), deadline));
  return stored <= held.epoch;
}

absl::StatusOr<bool> SessionService::KeepHeld(const v1::RestoreRequest& request,
                                              absl::Time deadline, v1::Session* response) {
  auto held = context_.table->Find(request.session_id());
  if (!held.ok()) return false;
  if (held->epoch > request.epoch()) {
    return context_.table->Get(request.session_id(), request.epoch()).status();
  }
  bool is_newest = false;
  auto use = context_.table->Acquire(request.session_id(), held->epoch);
  if (use.ok()) {
    LEXICO_ASSIGN_OR_RETURN(is_newest, IsNewest(request, use->record, deadline));
  }
  if (!is_newest) {
    DropSession(context_, request.session_id(), request.epoch());
    return false;
  }
  SessionRecord record = use->record;
  record.epoch = request.epoch();
  if (context_.store != nullptr) {
    LEXICO_RETURN_IF_ERROR(context_.store->CommitNow(&record, deadline));
  }
  context_.table->Drop(request.session_id(), request.epoch());
  LEXICO_ASSIGN_OR_RETURN(const SessionTable::Use again, context_.table->Add(record));
  LEXICO_ASSIGN_OR_RETURN(*response, DescribeSession(context_, record));
  return true;
}

absl::Status SessionService::RestoreSession(const v1::RestoreRequest& request, absl::Time deadline,
                                            v1::Session* response) {
  if (context_.phase != Phase::kServing) return Leaving(context_);
  LEXICO_RETURN_IF_ERROR(CheckSession(request.session_id(), request.epoch()));
  LEXICO_ASSIGN_OR_RETURN(const bool is_kept, KeepHeld(request, deadline, response));
  if (is_kept) return absl::OkStatus();
  if (context_.store == nullptr) return NoStore();
  auto restored = context_.store->Restore(IdentityOf(request), request.epoch(), deadline);
  if (!restored.ok()) return FromEngine(restored.status());
  auto use = context_.table->Add(restored->record);
  if (!use.ok()) {
    // Opened by another call meanwhile, which cannot have it in the engine: we do.
    const absl::Status dropped = context_.engine->Drop(request.session_id());
    if (!dropped.ok()) spdlog::warn("{}", std::string(dropped.message()));
    return use.status();
  }
  const absl::Status committed = context_.store->CommitNow(&restored->record, deadline);
  if (!committed.ok()) {
    DropSession(context_, request.session_id(), request.epoch());
    return committed;
  }
  LEXICO_ASSIGN_OR_RETURN(*response, DescribeSession(context_, restored->record));
  return absl::OkStatus();
}

grpc::Status SessionService::Restore(grpc::ServerContext* rpc, const v1::RestoreRequest* request,
                                     v1::Session* response) {
  CallRecorder recorder(context_.metrics, "Restore");
  return recorder.Finish(RestoreSession(*request, DeadlineOf(*rpc), response));
}

absl::Status SessionService::ReleaseSession(const v1::ReleaseRequest& request,
                                            absl::Time deadline) {
  const v1::SessionAtEpoch& session = request.session();
  const auto held = context_.table->Find(session.session_id());
  if (held.ok() && held->epoch > session.epoch()) {
    return context_.table->Get(session.session_id(), session.epoch()).status();
  }
  const bool deletes = request.delete_stored() && context_.store != nullptr;
  if (deletes) {
    // First: when the store cannot delete it now, the session stays whole. In use, so that it is
    // not written behind again; a call that runs here has lost it anyway.
    const auto use =
        context_.table->Acquire(session.session_id(), held.ok() ? held->epoch : session.epoch());
    LEXICO_RETURN_IF_ERROR(
        context_.store->DeleteStored(session.session_id(), session.epoch(), deadline));
    DropSession(context_, session.session_id(), session.epoch());
    return absl::OkStatus();
  }
  const bool was_held = DropSession(context_, session.session_id(), session.epoch());
  return was_held ? absl::OkStatus() : held.status();
}

grpc::Status SessionService::Release(grpc::ServerContext* rpc, const v1::ReleaseRequest* request,
                                     v1::ReleaseResponse*) {
  CallRecorder recorder(context_.metrics, "Release");
  return recorder.Finish(ReleaseSession(*request, DeadlineOf(*rpc)));
}

grpc::Status SessionService::GetModel(grpc::ServerContext*, const v1::GetModelRequest*,
                                      v1::ModelInfo* response) {
  CallRecorder recorder(context_.metrics, "GetModel");
  *response = context_.model;
  return recorder.Finish(absl::OkStatus());
}

grpc::Status SessionService::TokenizeText(grpc::ServerContext*, const v1::TokenizeRequest* request,
                                          v1::TokenizeResponse* response) {
  CallRecorder recorder(context_.metrics, "TokenizeText");
  if (request->text().size() > base::kTextChunkBytesMax) {
    return recorder.Finish(absl::InvalidArgumentError(
        fmt::format("the text has {} bytes, at most {}; tokenize it in parts",
                    request->text().size(), base::kTextChunkBytesMax)));
  }
  const auto ids = context_.text->tokenizer->Encode(
      request->text(), EncodeOptions{.add_special_tokens = request->add_special_tokens()});
  if (!ids.ok()) return recorder.Finish(ids.status());
  response->mutable_ids()->Assign(ids->begin(), ids->end());
  return recorder.Finish(absl::OkStatus());
}

grpc::Status SessionService::DetokenizeIds(grpc::ServerContext*,
                                           const v1::DetokenizeRequest* request,
                                           v1::DetokenizeResponse* response) {
  CallRecorder recorder(context_.metrics, "DetokenizeIds");
  const Tokenizer& tokenizer = *context_.text->tokenizer;
  const std::span<const int32_t> ids(request->ids().data(),
                                     static_cast<size_t>(request->ids_size()));
  const absl::Status status = tokenizer.CheckIds(ids);
  if (status.ok()) response->set_text(tokenizer.Decode(ids, request->skip_special_tokens()));
  return recorder.Finish(status);
}

v1::WorkerLoad SessionService::Load() const {
  const EngineLoad load = context_.engine->load();
  v1::WorkerLoad out;
  // Who is sent here finds room by demotions.
  out.set_n_pages_free(load.n_pages_free + load.n_pages_demotable);
  out.set_n_pages(load.n_pages);
  out.set_n_running(load.n_running);
  out.set_n_waiting(load.n_waiting);
  out.set_n_waiting_max(load.n_waiting_max);
  out.set_code_bytes(load.memory.code_bytes);
  out.set_fp16_equivalent_bytes(load.memory.fp16_equivalent_bytes);
  out.set_n_pages_behind(context_.store == nullptr ? 0 : context_.store->pages_behind());
  return out;
}

std::vector<v1::SessionAtEpoch> SessionService::Held() const {
  std::vector<v1::SessionAtEpoch> held;
  for (const SessionRecord& record : context_.table->List()) {
    held.emplace_back();
    held.back().set_session_id(record.session_id);
    held.back().set_epoch(record.epoch);
  }
  return held;
}

void SessionService::Revoke(const v1::SessionAtEpoch& session) {
  if (DropSession(context_, session.session_id(), session.epoch())) {
    spdlog::info("session {} has another owner now; dropped at epoch {}", session.session_id(),
                 session.epoch());
  }
}

int SessionService::Drain(absl::Duration timeout) {
  const absl::Time begin = absl::Now();
  context_.phase = Phase::kDraining;
  const auto n_in_use = [this] {
    int n = 0;
    for (const SessionRecord& record : context_.table->List()) {
      n += context_.table->IsInUse(record.session_id) ? 1 : 0;
    }
    return n;
  };
  while (n_in_use() > 0 && absl::Now() < begin + timeout / 2) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  context_.phase = Phase::kEnding;
  while (n_in_use() > 0 && absl::Now() < begin + timeout) absl::SleepFor(absl::Milliseconds(10));
  int n_left = 0;
  for (const SessionRecord& record : context_.table->List()) {
    const absl::Status status =
        context_.store == nullptr ? NoStore() : context_.store->Offload(record, begin + timeout);
    if (!status.ok() && !absl::IsAborted(status)) {
      spdlog::warn("session {} is not in the store: {}", record.session_id,
                   std::string(status.message()));
      ++n_left;
      continue;
    }
    DropSession(context_, record.session_id, record.epoch);
  }
  return n_left;
}

}  // namespace lexico::worker

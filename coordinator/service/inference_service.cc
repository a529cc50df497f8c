#include "coordinator/service/inference_service.h"

#include <fmt/format.h>

#include <random>

#include "coordinator/service/append.h"
#include "coordinator/service/call_recorder.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/errors.h"
#include "coordinator/service/facts.h"
#include "coordinator/service/generate.h"
#include "coordinator/service/page_token.h"
#include "coordinator/service/validate.h"
#include "coordinator/service/worker_call.h"
#include "proto/base/demotion.h"
#include "proto/base/hash.h"
#include "proto/base/limits.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"

namespace lexico::coord {
namespace {

using StubInterface = v1::WorkerService::StubInterface;

constexpr absl::Duration kTokenizeTimeout = absl::Seconds(10);
constexpr size_t kListPageDefault = 100;

// 80 random bits: chance of a clash among 2^32 sessions below 10^-5, and then it is refused.
std::string RandomSessionId() {
  std::random_device random;
  return fmt::format("s-{:08x}{:08x}{:04x}", random(), random(), random() & 0xffff);
}

std::string FingerprintOf(const v1::CreateSessionRequest& request) {
  base::FingerprintBuilder builder;
  builder.Add(request.model())
      .Add(request.profile())
      .AddInt(static_cast<uint64_t>(request.format()))
      .Add(request.system_prompt());
  if (!request.min_profile().empty()) builder.Add(request.min_profile());
  return builder.Finish().ToHex();
}

absl::Status IdTaken(const std::string& id) {
  return rpc::WithDetail(
      absl::AlreadyExistsError(fmt::format("session id {} is taken; choose another", id)),
      "session_exists");
}

absl::Status CheckProfile(const v1::ModelInfo& model, const std::string& profile) {
  const auto parsed = base::ParseProfile(profile);
  const base::CodingModel coding{.head_dim = static_cast<int>(model.head_dim()),
                                 .n_atoms = static_cast<int>(model.n_atoms())};
  const absl::Status status = parsed.ok() ? base::CheckProfile(*parsed, coding) : parsed.status();
  if (status.ok()) return status;
  return rpc::WithDetail(
      absl::NotFoundError(fmt::format("model {} has no profile {}; allowed are {} ({})",
                                      model.name(), profile, base::AllowedProfiles(coding),
                                      std::string(status.message()))),
      "profile_unknown");
}

// REQUIRES: both were checked.
absl::Status CheckSmaller(const std::string& from, const std::string& to) {
  return rpc::WithDetail(base::CheckDemotion(*base::ParseProfile(from), *base::ParseProfile(to)),
                         "profile_not_smaller");
}

// The least profile of a new session: the request's, or the coordinator's where that is one.
absl::StatusOr<std::string> MinProfile(const v1::CreateSessionRequest& request,
                                       const v1::ModelInfo& model, const std::string& profile,
                                       const std::string& usual) {
  if (request.min_profile().empty()) {
    const bool serves =
        !usual.empty() && CheckProfile(model, usual).ok() && CheckSmaller(profile, usual).ok();
    return serves ? usual : "";
  }
  if (request.min_profile() == profile) return std::string();
  LEXICO_RETURN_IF_ERROR(CheckProfile(model, request.min_profile()));
  LEXICO_RETURN_IF_ERROR(CheckSmaller(profile, request.min_profile()));
  return request.min_profile();
}

// Fills in what the request left to the model and to the coordinator's options.
absl::StatusOr<Session> ResolveSession(const v1::CreateSessionRequest& request,
                                       const v1::ModelInfo& model, const std::string& tenant,
                                       const std::string& usual_min_profile) {
  Session session;
  session.tenant = tenant;
  session.model = model.name();
  session.model_identity = ModelFromProto(model).identity;
  session.profile = request.profile();
  if (session.profile.empty() && model.profiles_size() > 0) session.profile = model.profiles(0);
  LEXICO_RETURN_IF_ERROR(CheckProfile(model, session.profile));
  LEXICO_ASSIGN_OR_RETURN(session.min_profile,
                          MinProfile(request, model, session.profile, usual_min_profile));
  v1::TextFormat format = request.format();
  if (format == v1::TEXT_FORMAT_UNSPECIFIED) {
    format = model.has_chat_template() ? v1::TEXT_FORMAT_CHAT : v1::TEXT_FORMAT_RAW;
  }
  if (format == v1::TEXT_FORMAT_CHAT && !model.has_chat_template()) {
    return absl::InvalidArgumentError(
        fmt::format("model {} has no chat template; use format RAW", model.name()));
  }
  if (format == v1::TEXT_FORMAT_RAW && !request.system_prompt().empty()) {
    return absl::InvalidArgumentError(fmt::format(
        "model {} has no chat template to put a system_prompt in; append the text", model.name()));
  }
  session.format = format;
  session.system_prompt = request.system_prompt();
  session.create_fingerprint = FingerprintOf(request);
  return session;
}

}  // namespace

absl::Status InferenceService::Create(const Caller& caller, const v1::CreateSessionRequest& request,
                                      v1::Session* response) {
  LEXICO_RETURN_IF_ERROR(CheckCreateSession(request));
  const std::string id = request.session_id().empty() ? RandomSessionId() : request.session_id();
  const auto existing = [&]() -> absl::Status {
    const auto seen = cluster_.Get(caller.tenant(), id);
    if (!seen.ok()) return seen.status();
    if (seen->session.create_fingerprint != FingerprintOf(request)) {
      return rpc::WithDetail(
          absl::AlreadyExistsError(fmt::format(
              "session {} exists and was created with other fields; choose another id", id)),
          "session_exists");
    }
    *response = SessionToProto(seen->session, seen->activity);
    return absl::OkStatus();
  };
  if (const absl::Status found = existing(); !absl::IsNotFound(found)) return found;
  LEXICO_ASSIGN_OR_RETURN(const v1::ModelInfo model, cluster_.FindModel(request.model()));
  LEXICO_ASSIGN_OR_RETURN(Session session, ResolveSession(request, model, caller.tenant(),
                                                          cluster_.options().min_profile));
  session.session_id = id;
  {
    LEXICO_ASSIGN_OR_RETURN(const Hold hold, cluster_.BeginNew(caller, id, /*wait=*/true));
    // The same call may have come in twice: the first one made it.
    if (const absl::Status found = existing(); !absl::IsNotFound(found)) return found;
    const absl::Status opened = mover_.Open(caller, hold, session);
    if (absl::IsAborted(opened) || absl::IsAlreadyExists(opened)) {
      return IdTaken(id);
    }
    LEXICO_RETURN_IF_ERROR(opened);
  }
  return existing();
}

grpc::Status InferenceService::CreateSession(grpc::ServerContext* context,
                                             const v1::CreateSessionRequest* request,
                                             v1::Session* response) {
  CallRecorder recorder(cluster_, "CreateSession");
  const auto caller = Caller::FromContext(context);
  return recorder.Finish(caller.ok() ? Create(*caller, *request, response) : caller.status());
}

grpc::Status InferenceService::AppendText(grpc::ServerContext* context,
                                          grpc::ServerReader<v1::AppendTextRequest>* reader,
                                          v1::AppendTextResponse* response) {
  CallRecorder recorder(cluster_, "AppendText");
  const auto caller = Caller::FromContext(context);
  if (!caller.ok()) return recorder.Finish(caller.status());
  const auto next = [reader](v1::AppendTextRequest* chunk) { return reader->Read(chunk); };
  return recorder.Finish(AppendDocument(cluster_, mover_, *caller, next, response));
}

grpc::Status InferenceService::Generate(grpc::ServerContext* context,
                                        const v1::GenerateRequest* request,
                                        grpc::ServerWriter<v1::GenerateEvent>* writer) {
  CallRecorder recorder(cluster_, "Generate");
  const auto caller = Caller::FromContext(context);
  if (!caller.ok()) return recorder.Finish(caller.status());
  if (const absl::Status status = CheckGenerate(*request); !status.ok()) {
    return recorder.Finish(status);
  }
  GenerateCall call(cluster_, mover_, *caller, *request, recorder.begin(),
                    [writer](const v1::GenerateEvent& event) { return writer->Write(event); });
  return recorder.Finish(call.Run());
}

absl::Status InferenceService::Fork(const Caller& caller, const v1::ForkSessionRequest& request,
                                    v1::Session* response) {
  const std::string id =
      request.new_session_id().empty() ? RandomSessionId() : request.new_session_id();
  LEXICO_RETURN_IF_ERROR(CheckName("new_session_id", id));
  {
    LEXICO_ASSIGN_OR_RETURN(const Hold parent,
                            cluster_.BeginMove(caller, request.session_id(), {}));
    if (id == request.session_id()) return IdTaken(id);
    // Without waiting: two forks of each other's ids would wait for ever.
    LEXICO_ASSIGN_OR_RETURN(const Hold child, cluster_.BeginNew(caller, id, /*wait=*/false));
    const absl::Status forked = mover_.Fork(caller, parent, child);
    if (absl::IsAborted(forked) || absl::IsAlreadyExists(forked)) {
      return IdTaken(id);
    }
    LEXICO_RETURN_IF_ERROR(forked);
  }
  LEXICO_ASSIGN_OR_RETURN(const Cluster::Seen seen, cluster_.Get(caller.tenant(), id));
  *response = SessionToProto(seen.session, seen.activity);
  return absl::OkStatus();
}

grpc::Status InferenceService::ForkSession(grpc::ServerContext* context,
                                           const v1::ForkSessionRequest* request,
                                           v1::Session* response) {
  CallRecorder recorder(cluster_, "ForkSession");
  const auto caller = Caller::FromContext(context);
  return recorder.Finish(caller.ok() ? Fork(*caller, *request, response) : caller.status());
}

absl::Status InferenceService::Describe(const Caller& caller, const std::string& session_id,
                                        v1::Session* response) {
  LEXICO_ASSIGN_OR_RETURN(Cluster::Seen seen, cluster_.Get(caller.tenant(), session_id));
  double prefill_fraction = 0;
  if (seen.session.placement == Placement::kResident) {
    // On failure the last known facts are the answer; the next call finds out about the worker.
    const auto described =
        DescribeSession(cluster_, seen.session.worker, session_id, seen.session.epoch);
    if (described.ok()) {
      seen.session.facts = FactsFromProto(*described);
      prefill_fraction = described->prefill_fraction();
    }
  }
  *response = SessionToProto(seen.session, seen.activity);
  response->set_prefill_fraction(prefill_fraction);
  return absl::OkStatus();
}

grpc::Status InferenceService::GetSession(grpc::ServerContext* context,
                                          const v1::GetSessionRequest* request,
                                          v1::Session* response) {
  CallRecorder recorder(cluster_, "GetSession");
  const auto caller = Caller::FromContext(context);
  return recorder.Finish(caller.ok() ? Describe(*caller, request->session_id(), response)
                                     : caller.status());
}

absl::Status InferenceService::List(const Caller& caller, const v1::ListSessionsRequest& request,
                                    v1::ListSessionsResponse* response) {
  if (request.page_size() < 0 || request.page_size() > base::kListPageMax) {
    return absl::InvalidArgumentError(fmt::format("page_size is {}, must be within 0 and {}",
                                                  request.page_size(), base::kListPageMax));
  }
  const size_t size =
      request.page_size() == 0 ? kListPageDefault : static_cast<size_t>(request.page_size());
  std::string start_after;
  if (!request.page_token().empty()) {
    LEXICO_ASSIGN_OR_RETURN(start_after, ParsePageToken(caller.tenant(), request.page_token()));
  }
  auto sessions = cluster_.List(caller.tenant(), start_after, size + 1);
  const bool is_more = sessions.size() > size;
  if (is_more) sessions.pop_back();
  for (const Cluster::Seen& seen : sessions) {
    *response->add_sessions() = SessionToProto(seen.session, seen.activity);
  }
  if (is_more) {
    response->set_next_page_token(
        MakePageToken(caller.tenant(), sessions.back().session.session_id));
  }
  return absl::OkStatus();
}

grpc::Status InferenceService::ListSessions(grpc::ServerContext* context,
                                            const v1::ListSessionsRequest* request,
                                            v1::ListSessionsResponse* response) {
  CallRecorder recorder(cluster_, "ListSessions");
  const auto caller = Caller::FromContext(context);
  return recorder.Finish(caller.ok() ? List(*caller, *request, response) : caller.status());
}

grpc::Status InferenceService::OffloadSession(grpc::ServerContext* context,
                                              const v1::OffloadSessionRequest* request,
                                              v1::Session* response) {
  CallRecorder recorder(cluster_, "OffloadSession");
  const auto act = [&]() -> absl::Status {
    LEXICO_ASSIGN_OR_RETURN(const Caller caller, Caller::FromContext(context));
    LEXICO_ASSIGN_OR_RETURN(const Hold hold, cluster_.BeginMove(caller, request->session_id(), {}));
    LEXICO_RETURN_IF_ERROR(mover_.Offload(hold));
    *response = SessionToProto(cluster_.Held(hold), Activity::kNone);
    return absl::OkStatus();
  };
  return recorder.Finish(act());
}

absl::Status InferenceService::Restore(const Caller& caller,
                                       const v1::RestoreSessionRequest& request,
                                       v1::Session* response) {
  LEXICO_ASSIGN_OR_RETURN(const Hold hold, cluster_.BeginMove(caller, request.session_id(), {}));
  const Session session = cluster_.Held(hold);
  const std::string& target = request.worker();
  if (target.empty()) {
    LEXICO_RETURN_IF_ERROR(mover_.Locate(caller, hold).status());
  } else if (session.placement != Placement::kResident) {
    LEXICO_RETURN_IF_ERROR(mover_.CheckTarget(session, target));
    LEXICO_RETURN_IF_ERROR(mover_.TakeUpOn(hold, target));
  } else if (session.worker != target) {
    LEXICO_RETURN_IF_ERROR(cluster_.FindWorker(target).status());
    return rpc::WithDetail(
        absl::FailedPreconditionError(fmt::format("session {} is on worker {}; MigrateSession "
                                                  "moves it to {}",
                                                  session.session_id, session.worker, target)),
        "session_resident");
  }
  *response = SessionToProto(cluster_.Held(hold), Activity::kNone);
  return absl::OkStatus();
}

grpc::Status InferenceService::RestoreSession(grpc::ServerContext* context,
                                              const v1::RestoreSessionRequest* request,
                                              v1::Session* response) {
  CallRecorder recorder(cluster_, "RestoreSession");
  const auto caller = Caller::FromContext(context);
  return recorder.Finish(caller.ok() ? Restore(*caller, *request, response) : caller.status());
}

grpc::Status InferenceService::MigrateSession(grpc::ServerContext* context,
                                              const v1::MigrateSessionRequest* request,
                                              v1::Session* response) {
  CallRecorder recorder(cluster_, "MigrateSession");
  const auto act = [&]() -> absl::Status {
    LEXICO_ASSIGN_OR_RETURN(const Caller caller, Caller::FromContext(context));
    LEXICO_ASSIGN_OR_RETURN(const Hold hold, cluster_.BeginMove(caller, request->session_id(), {}));
    LEXICO_RETURN_IF_ERROR(mover_.Migrate(caller, hold, request->worker()));
    *response = SessionToProto(cluster_.Held(hold), Activity::kNone);
    return absl::OkStatus();
  };
  return recorder.Finish(act());
}

absl::Status InferenceService::Demote(const Caller& caller, const v1::DemoteSessionRequest& request,
                                      v1::Session* response) {
  LEXICO_ASSIGN_OR_RETURN(const Hold hold, cluster_.BeginMove(caller, request.session_id(), {}));
  const Session session = cluster_.Held(hold);
  LEXICO_ASSIGN_OR_RETURN(const v1::ModelInfo model, cluster_.FindModel(session.model));
  if (request.profile().empty()) {
    return absl::InvalidArgumentError("profile is empty; name the smaller one, such as paper-s8");
  }
  LEXICO_RETURN_IF_ERROR(CheckProfile(model, request.profile()));
  // Before an offloaded session is taken up; its worker knows best.
  LEXICO_RETURN_IF_ERROR(CheckSmaller(ProfileNow(session), request.profile()));
  LEXICO_RETURN_IF_ERROR(mover_.Demote(caller, hold, request.profile()));
  *response = SessionToProto(cluster_.Held(hold), Activity::kNone);
  return absl::OkStatus();
}

grpc::Status InferenceService::DemoteSession(grpc::ServerContext* context,
                                             const v1::DemoteSessionRequest* request,
                                             v1::Session* response) {
  CallRecorder recorder(cluster_, "DemoteSession");
  const auto caller = Caller::FromContext(context);
  return recorder.Finish(caller.ok() ? Demote(*caller, *request, response) : caller.status());
}

grpc::Status InferenceService::DeleteSession(grpc::ServerContext* context,
                                             const v1::DeleteSessionRequest* request,
                                             v1::DeleteSessionResponse* response) {
  CallRecorder recorder(cluster_, "DeleteSession");
  const auto act = [&]() -> absl::Status {
    LEXICO_ASSIGN_OR_RETURN(const Caller caller, Caller::FromContext(context));
    LEXICO_ASSIGN_OR_RETURN(const Hold hold, cluster_.BeginMove(caller, request->session_id(), {}));
    return deleter_.Delete(hold);
  };
  return recorder.Finish(act());
}

grpc::Status InferenceService::ListModels(grpc::ServerContext* context,
                                          const v1::ListModelsRequest* request,
                                          v1::ListModelsResponse* response) {
  CallRecorder recorder(cluster_, "ListModels");
  for (const v1::ModelInfo& model : cluster_.ListModels()) *response->add_models() = model;
  return recorder.Finish(absl::OkStatus());
}

grpc::Status InferenceService::Tokenize(grpc::ServerContext* context,
                                        const v1::TokenizeRequest* request,
                                        v1::TokenizeResponse* response) {
  CallRecorder recorder(cluster_, "Tokenize");
  const auto act = [&]() -> absl::Status {
    LEXICO_ASSIGN_OR_RETURN(const v1::ModelInfo model, cluster_.FindModel(request->model()));
    LEXICO_ASSIGN_OR_RETURN(const std::string worker_id, cluster_.AnyWorker(model.name()));
    return CallWorker(cluster_, worker_id, &StubInterface::TokenizeText, *request, response,
                      kTokenizeTimeout);
  };
  return recorder.Finish(act());
}

grpc::Status InferenceService::Detokenize(grpc::ServerContext* context,
                                          const v1::DetokenizeRequest* request,
                                          v1::DetokenizeResponse* response) {
  CallRecorder recorder(cluster_, "Detokenize");
  const auto act = [&]() -> absl::Status {
    LEXICO_ASSIGN_OR_RETURN(const v1::ModelInfo model, cluster_.FindModel(request->model()));
    LEXICO_ASSIGN_OR_RETURN(const std::string worker_id, cluster_.AnyWorker(model.name()));
    return CallWorker(cluster_, worker_id, &StubInterface::DetokenizeIds, *request, response,
                      kTokenizeTimeout);
  };
  return recorder.Finish(act());
}

}  // namespace lexico::coord

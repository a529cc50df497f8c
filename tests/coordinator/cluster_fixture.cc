#include "tests/coordinator/cluster_fixture.h"

#include <fmt/format.h>

#include "absl/time/clock.h"
#include "proto/rpc/channel.h"

namespace lexico::coord {
namespace {

using tests::IsOk;

// No call of these tests takes longer, sanitizers included.
constexpr absl::Duration kCallTimeout = absl::Seconds(30);

// By reference: the call that fills the response may be evaluated after this argument.
template <typename Response>
absl::StatusOr<Response> Result(const grpc::Status& status, const Response& response) {
  if (!status.ok()) return rpc::FromGrpc(status);
  return response;
}

}  // namespace

void ClusterFixture::StartCoordinator() {
  auto state = LocalState::Open({.folder = dir_.path()});
  ASSERT_THAT(state, IsOk());
  state_ = *std::move(state);
  metrics_ = std::make_unique<base::Metrics>("coordinator");
  auto server = CoordinatorServer::Start(
      {.address = address_, .cluster = options_, .store = store_address_}, *state_, *metrics_);
  ASSERT_THAT(server, IsOk());
  server_ = *std::move(server);
  address_ = fmt::format("127.0.0.1:{}", server_->port());
  const auto channel = rpc::MakeChannel(address_);
  ASSERT_THAT(channel, IsOk());
  grpc::experimental::ChannelResetConnectionBackoff(channel->get());
  ASSERT_THAT(rpc::WaitUntilServing(*channel, address_, absl::Seconds(5)), IsOk());
  inference_ = v1::Inference::NewStub(*channel);
  admin_ = v1::Admin::NewStub(*channel);
}

void ClusterFixture::StopCoordinator() {
  server_.reset();
  state_.reset();
}

tests::FakeWorker& ClusterFixture::AddWorker(const std::string& id,
                                             tests::FakeWorkerOptions options) {
  options.worker_id = id;
  options.coordinator = address_;
  workers_[id] = std::make_unique<tests::FakeWorker>(options, store_);
  if (options.beats) {
    Eventually([&] { return StateOfWorker(id) == v1::WORKER_STATE_READY; }, "worker is ready");
  }
  return *workers_[id];
}

void ClusterFixture::Eventually(const std::function<bool()>& condition, const char* what) {
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (!condition()) {
    if (absl::Now() > deadline) {
      FAIL() << "not within 5 s: " << what;
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
}

std::unique_ptr<grpc::ClientContext> ClusterFixture::Context(const std::string& tenant) {
  auto context = std::make_unique<grpc::ClientContext>();
  rpc::SetTimeout(*context, kCallTimeout);
  if (!tenant.empty()) context->AddMetadata("lexico-tenant", tenant);
  return context;
}

absl::StatusOr<v1::Session> ClusterFixture::Create(const std::string& id,
                                                   const std::string& tenant) {
  v1::CreateSessionRequest request;
  request.set_session_id(id);
  request.set_format(v1::TEXT_FORMAT_RAW);
  v1::Session session;
  return Result(inference_->CreateSession(Context(tenant).get(), request, &session), session);
}

absl::StatusOr<v1::Session> ClusterFixture::Create(const v1::CreateSessionRequest& request) {
  v1::Session session;
  return Result(inference_->CreateSession(Context().get(), request, &session), session);
}

absl::StatusOr<v1::Session> ClusterFixture::Get(const std::string& id, const std::string& tenant) {
  v1::GetSessionRequest request;
  request.set_session_id(id);
  v1::Session session;
  return Result(inference_->GetSession(Context(tenant).get(), request, &session), session);
}

absl::StatusOr<v1::AppendTextResponse> ClusterFixture::Append(
    const std::string& id, const std::vector<std::string>& chunks) {
  const auto context = Context();
  v1::AppendTextResponse response;
  const auto writer = inference_->AppendText(context.get(), &response);
  v1::AppendTextRequest message;
  message.set_session_id(id);
  for (const std::string& chunk : chunks) {
    message.set_text(chunk);
    if (!writer->Write(message)) break;
    message.clear_session_id();
  }
  writer->WritesDone();
  return Result(writer->Finish(), response);
}

Answer ClusterFixture::Generate(const std::string& id, const std::string& prompt, int n_tokens,
                                grpc::ClientContext* context) {
  const auto own = Context();
  v1::GenerateRequest request;
  request.set_session_id(id);
  request.set_prompt(prompt);
  request.set_max_new_tokens(n_tokens);
  const auto reader = inference_->Generate(context != nullptr ? context : own.get(), request);
  Answer answer;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    if (event.has_started()) {
      ++answer.n_started;
      answer.worker = event.started().worker();
    } else if (event.has_progress()) {
      answer.in_order &= answer.ids.empty();
    } else if (event.has_token()) {
      answer.in_order &= event.token().index() == static_cast<int64_t>(answer.ids.size());
      answer.ids.push_back(event.token().id());
      answer.text += event.token().text();
    } else if (event.has_finished()) {
      ++answer.n_finished;
    }
  }
  answer.status = rpc::FromGrpc(reader->Finish());
  return answer;
}

absl::StatusOr<v1::Session> ClusterFixture::Offload(const std::string& id) {
  v1::OffloadSessionRequest request;
  request.set_session_id(id);
  v1::Session session;
  return Result(inference_->OffloadSession(Context().get(), request, &session), session);
}

absl::StatusOr<v1::Session> ClusterFixture::Restore(const std::string& id,
                                                    const std::string& worker) {
  v1::RestoreSessionRequest request;
  request.set_session_id(id);
  request.set_worker(worker);
  v1::Session session;
  return Result(inference_->RestoreSession(Context().get(), request, &session), session);
}

absl::StatusOr<v1::Session> ClusterFixture::Migrate(const std::string& id,
                                                    const std::string& worker) {
  v1::MigrateSessionRequest request;
  request.set_session_id(id);
  request.set_worker(worker);
  v1::Session session;
  return Result(inference_->MigrateSession(Context().get(), request, &session), session);
}

absl::StatusOr<v1::Session> ClusterFixture::Fork(const std::string& id, const std::string& child) {
  v1::ForkSessionRequest request;
  request.set_session_id(id);
  request.set_new_session_id(child);
  v1::Session session;
  return Result(inference_->ForkSession(Context().get(), request, &session), session);
}

absl::Status ClusterFixture::Delete(const std::string& id, const std::string& tenant) {
  v1::DeleteSessionRequest request;
  request.set_session_id(id);
  v1::DeleteSessionResponse response;
  return rpc::FromGrpc(inference_->DeleteSession(Context(tenant).get(), request, &response));
}

std::map<std::string, v1::Session> ClusterFixture::List() {
  v1::ListSessionsResponse response;
  const grpc::Status status = inference_->ListSessions(Context().get(), {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  std::map<std::string, v1::Session> sessions;
  for (const v1::Session& session : response.sessions()) sessions[session.session_id()] = session;
  return sessions;
}

v1::WorkerState ClusterFixture::StateOfWorker(const std::string& id) {
  v1::ListWorkersResponse response;
  const grpc::Status status = admin_->ListWorkers(Context().get(), {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  for (const v1::Worker& worker : response.workers()) {
    if (worker.worker_id() == id) return worker.state();
  }
  return v1::WORKER_STATE_UNSPECIFIED;
}

double ClusterFixture::MetricSum(const std::string& name) {
  double sum = 0;
  for (const auto& family : metrics_->registry()->Collect()) {
    if (family.name != name) continue;
    for (const auto& metric : family.metric) {
      sum += metric.counter.value + metric.gauge.value +
             static_cast<double>(metric.histogram.sample_count);
    }
  }
  return sum;
}

}  // namespace lexico::coord

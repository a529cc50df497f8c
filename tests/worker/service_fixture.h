// The worker service over gRPC in this process: the embedded model, a real engine, a fake store.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/server.h"
#include "proto/rpc/status_map.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/service_fake_store.h"
#include "worker/service/session_service.h"

namespace lexico::worker {

using absl::StatusCode;
using tests::FakeStoreClient;
using tests::IsOk;
using tests::StatusIs;

inline constexpr char kModelDir[] = "models/lexico-20m";  // tests run at the root of the repository

struct Model {
  std::vector<ModelRank> ranks;
  std::shared_ptr<const Transformer> transformer;  // of the first
  TextModel text;
};

inline const Model& EmbeddedModel() {
  static const Model& model = *[] {
    auto* m = new Model;
    const auto stream = kernels::Stream::Cpu(1);
    m->ranks = *LoadModelRanks(kModelDir, *FindDefaultDictionary(kModelDir), {&stream, 1});
    m->transformer = m->ranks[0].transformer;
    m->text = *LoadTextModel(kModelDir, m->transformer->config());
    return m;
  }();
  return model;
}

// A worker process without its process.
class TestWorker {
 public:
  TestWorker(const std::string& id, FakeStoreClient* client, size_t queue_bytes = size_t{8} << 20)
      : metrics_("worker") {
    EngineOptions options;
    options.kv_memory_bytes = size_t{64} << 20;
    options.tokenizer = EmbeddedModel().text.tokenizer->fingerprint();
    if (client != nullptr) {
      writer_ = std::make_unique<PageWriter>(client, &metrics_, queue_bytes);
      options.page_sink = [this](const std::string& session, std::vector<PageExport> pages) {
        writer_->Push(session, std::move(pages));
      };
    }
    options.on_demoted = [this](const DemotionReport& report) {
      if (writer_ != nullptr) writer_->SyncLater(report.session_id, absl::Now());
    };
    engine_ = *Engine::Create(options, EmbeddedModel().ranks, base::Clock::Real(), &metrics_);
    if (client != nullptr) {
      store_ = std::make_unique<SessionStore>(client, writer_.get(), engine_.get(), &table_,
                                              "lexico-20m", &metrics_);
    }
    context_.worker_id = id;
    context_.model.set_name("lexico-20m");
    context_.max_positions = EmbeddedModel().transformer->config().max_positions;
    context_.text = &EmbeddedModel().text;
    context_.engine = engine_.get();
    context_.table = &table_;
    context_.store = store_.get();
    context_.metrics = &metrics_;
    service_ = std::make_unique<SessionService>(context_);
    server_ = *rpc::Server::Start("127.0.0.1:0", {service_.get()});
    stub_ = v1::WorkerService::NewStub(
        *rpc::MakeChannel("127.0.0.1:" + std::to_string(server_->port())));
  }

  v1::WorkerService::Stub& stub() { return *stub_; }
  SessionService& service() { return *service_; }
  PageWriter& writer() { return *writer_; }
  Engine& engine() { return *engine_; }
  SessionTable& table() { return table_; }
  base::Metrics& metrics() { return metrics_; }
  void set_max_positions(int n) { context_.max_positions = n; }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (v1::WorkerService::Stub::*method)(
                                    grpc::ClientContext*, const Request&, Response*),
                                const Request& request) {
    grpc::ClientContext context;
    rpc::SetTimeout(context, absl::Seconds(30));
    Response response;
    const absl::Status status = rpc::FromGrpc((*stub_.*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
  absl::StatusOr<v1::Session> Open(const std::string& id, uint64_t epoch,
                                   const std::string& tenant = "", int64_t created = 0,
                                   const std::string& profile = "") {
    v1::OpenSessionRequest request;
    request.set_profile(profile);
    request.set_session_id(id);
    request.set_epoch(epoch);
    request.set_tenant(tenant);
    if (created != 0) request.mutable_create_time()->set_seconds(created);
    return Call(&v1::WorkerService::Stub::OpenSession, request);
  }
  absl::StatusOr<v1::Session> AtEpoch(
      grpc::Status (v1::WorkerService::Stub::*method)(grpc::ClientContext*,
                                                      const v1::SessionAtEpoch&, v1::Session*),
      const std::string& id, uint64_t epoch) {
    v1::SessionAtEpoch request;
    request.set_session_id(id);
    request.set_epoch(epoch);
    return Call(method, request);
  }
  absl::StatusOr<v1::Session> Describe(const std::string& id, uint64_t epoch) {
    return AtEpoch(&v1::WorkerService::Stub::Describe, id, epoch);
  }
  absl::StatusOr<v1::Session> Offload(const std::string& id, uint64_t epoch) {
    return AtEpoch(&v1::WorkerService::Stub::Offload, id, epoch);
  }
  absl::StatusOr<v1::Session> Restore(const std::string& id, uint64_t epoch,
                                      const std::string& tenant = "", int64_t created = 0) {
    v1::RestoreRequest request;
    request.set_session_id(id);
    request.set_epoch(epoch);
    request.set_tenant(tenant);
    if (created != 0) request.mutable_create_time()->set_seconds(created);
    return Call(&v1::WorkerService::Stub::Restore, request);
  }
  absl::StatusOr<v1::AppendTextResponse> Append(const std::string& id, uint64_t epoch,
                                                const std::string& text) {
    grpc::ClientContext context;
    v1::AppendTextResponse response;
    const auto writer = stub_->Append(&context, &response);
    v1::WorkerAppendRequest request;
    request.mutable_session()->set_session_id(id);
    request.mutable_session()->set_epoch(epoch);
    request.set_text(text);
    writer->Write(request);
    writer->WritesDone();
    const absl::Status status = rpc::FromGrpc(writer->Finish());
    if (!status.ok()) return status;
    return response;
  }

 private:
  base::Metrics metrics_;
  std::unique_ptr<PageWriter> writer_;
  std::unique_ptr<Engine> engine_;
  SessionTable table_;
  std::unique_ptr<SessionStore> store_;
  ServiceContext context_;
  std::unique_ptr<SessionService> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
};

struct Answer {
  absl::Status status;
  std::vector<v1::GenerateEvent> events;
  std::vector<int32_t> ids;
  std::string text;
  v1::GenerateEvent::Finished finished;
};

inline v1::RunRequest MakeRun(const std::string& id, uint64_t epoch, int max_new_tokens) {
  v1::RunRequest run;
  run.mutable_session()->set_session_id(id);
  run.mutable_session()->set_epoch(epoch);
  run.mutable_request()->set_session_id(id);
  run.mutable_request()->set_prompt("Tell me about the sea.");
  run.mutable_request()->set_max_new_tokens(max_new_tokens);
  run.mutable_request()->set_ignore_end_tokens(true);
  run.mutable_request()->mutable_sampling()->set_seed(9);
  return run;
}

inline Answer Generate(TestWorker& worker, const v1::RunRequest& request,
                       const std::function<bool(const v1::GenerateEvent&)>& on_event = nullptr) {
  Answer answer;
  grpc::ClientContext context;
  rpc::SetTimeout(context, absl::Seconds(60));
  const auto reader = worker.stub().Run(&context, request);
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    answer.events.push_back(event);
    if (event.has_token()) {
      answer.ids.push_back(event.token().id());
      answer.text += event.token().text();
    }
    if (event.has_finished()) answer.finished = event.finished();
    if (on_event && !on_event(event)) context.TryCancel();
  }
  answer.status = rpc::FromGrpc(reader->Finish());
  return answer;
}

inline bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return false;
}

inline std::string Document() {
  std::string text;
  for (int i = 0; i < 16; ++i) {
    text += "The lamp on pier " + std::to_string(i) + " was lit before the boats came in. ";
  }
  return text;
}

class ServiceTest : public testing::Test {
 protected:
  FakeStoreClient store_;
  TestWorker worker_{"w1", &store_};
  TestWorker other_{"w2", &store_};
};

}  // namespace lexico::worker

#include "tests/e2e/cluster.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"
#include "tools/eval/document.h"

namespace lexico::tests {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(60);  // a busy machine loads slowly

template <typename Request, typename Response>
absl::StatusOr<Response> Call(v1::Inference::Stub& stub,
                              grpc::Status (v1::Inference::Stub::*method)(grpc::ClientContext*,
                                                                          const Request&,
                                                                          Response*),
                              const Request& request) {
  grpc::ClientContext context;
  rpc::SetTimeout(context, absl::Seconds(60));
  Response response;
  const absl::Status status = rpc::FromGrpc((stub.*method)(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

// The body of GET /metrics.
std::string HttpGet(const std::string& address) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string text;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    if (write(fd, request.data(), request.size()) > 0) {
      char buffer[4096];
      ssize_t n;
      while ((n = read(fd, buffer, sizeof(buffer))) > 0) text.append(buffer, n);
    }
  }
  close(fd);
  return text;
}

}  // namespace

std::string Program(const std::string& name) { return std::string(LEXICO_BIN_DIR "/") + name; }
std::string ModelDir() { return LEXICO_MODEL_DIR; }

Cluster::Cluster(const ClusterOptions& options) { StartAll(options); }

void Cluster::StartAll(const ClusterOptions& options) {
  servers_["store"] = {
      .program = Program("lexico-cache-store"),
      .flags = options.store_flags,
      .address_flags = {
          {"--address", "grpc"}, {"--bulk_address", "bulk"}, {"--metrics_address", "metrics"}}};
  servers_["store"].flags.push_back("--data_dir=" + dir_.File("store"));
  servers_["coordinator"] = {
      .program = Program("lexico-coordinator"),
      .flags = options.coordinator_flags,
      .address_flags = {{"--address", "grpc"}, {"--metrics_address", "metrics"}}};
  servers_["coordinator"].flags.push_back("--data_dir=" + dir_.File("coordinator"));
  servers_["coordinator"].flags.push_back("--lease_ms=1500");
  Start("store");
  if (testing::Test::HasFatalFailure()) return;
  servers_["coordinator"].flags.push_back("--store=" + address("store"));
  Start("coordinator");
  if (testing::Test::HasFatalFailure()) return;
  for (int i = 1; i <= options.n_workers; ++i) {
    const std::string name = fmt::format("worker-{}", i);
    Server& worker = servers_[name];
    worker = {.program = Program("lexico-worker"),
              .flags = options.worker_flags,
              .address_flags = {{"--address", "grpc"}, {"--metrics_address", "metrics"}}};
    for (const std::string& flag :
         {"--model=" + ModelDir(), "--worker_id=" + name, std::string("--kv_memory=256MiB"),
          std::string("--threads=1"), "--coordinator=" + address("coordinator"),
          "--store=" + address("store")}) {
      worker.flags.insert(worker.flags.begin(), flag);
    }
    Start(name);
  }
  const auto channel = rpc::MakeChannel(address("coordinator"));
  ASSERT_TRUE(channel.ok()) << channel.status();
  inference_ = v1::Inference::NewStub(*channel);
  admin_ = v1::Admin::NewStub(*channel);
  WaitForWorkers(options.n_workers);
}

Cluster::~Cluster() {
  for (auto& [name, server] : servers_) {
    if (server.process != nullptr) server.process->Signal(SIGKILL);
    if (server.process != nullptr) server.process->WaitForExit(absl::Seconds(10));
    if (testing::Test::HasFailure() && server.process != nullptr) {
      fmt::print(stderr, "---- {} ----\n{}{}{}\n", name, server.old_logs, server.process->out(),
                 server.process->err());
    }
  }
}

void Cluster::Kill(const std::string& name) {
  Server& server = servers_.at(name);
  server.process->Signal(SIGKILL);
  ASSERT_EQ(server.process->WaitForExit(absl::Seconds(10)), 128 + SIGKILL);
  server.old_logs += server.process->err() + "---- killed ----\n";
}

void Cluster::Start(const std::string& name) {
  Server& server = servers_.at(name);
  std::vector<std::string> argv = {server.program};
  for (const std::string& flag : server.flags) argv.push_back(flag);
  for (const auto& [flag, key] : server.address_flags) {
    const auto told = server.addresses.find(key);
    argv.push_back(
        fmt::format("{}={}", flag, told == server.addresses.end() ? "127.0.0.1:0" : told->second));
  }
  server.process = std::make_unique<Process>(argv);
  const std::string ready = server.process->WaitForLine("ready ", kStartTimeout);
  ASSERT_NE(ready, "") << name << ": " << server.process->err();
  for (const auto& [flag, key] : server.address_flags) {
    const size_t at = ready.find(key + "=");
    ASSERT_NE(at, std::string::npos) << ready;
    const size_t begin = at + key.size() + 1;
    std::string value = ready.substr(begin, ready.find(' ', begin) - begin);
    if (value.find(':') == std::string::npos) value = "127.0.0.1:" + value;
    server.addresses[key] = value;
  }
}

std::string Cluster::metrics_address(const std::string& name) const {
  return servers_.at(name).addresses.at("metrics");
}

void Cluster::WaitForWorkers(int n_ready) {
  ASSERT_TRUE(Eventually([&] {
    const auto workers = Workers();
    if (!workers.ok()) return false;
    int n = 0;
    for (const v1::Worker& worker : *workers) n += worker.state() == v1::WORKER_STATE_READY;
    return n >= n_ready;
  })) << "workers did not register";
}

absl::StatusOr<v1::Session> Cluster::Create(v1::CreateSessionRequest request) {
  return Call(*inference_, &v1::Inference::Stub::CreateSession, request);
}

absl::StatusOr<v1::AppendTextResponse> Cluster::Append(const std::string& id,
                                                       const std::string& text) {
  grpc::ClientContext context;
  rpc::SetTimeout(context, absl::Seconds(120));
  v1::AppendTextResponse response;
  const auto writer = inference_->AppendText(&context, &response);
  v1::AppendTextRequest request;
  request.set_session_id(id);
  // Odd sizes split characters.
  constexpr size_t kChunk = 1021;
  for (size_t at = 0; at == 0 || at < text.size(); at += kChunk) {
    request.set_text(text.substr(at, kChunk));
    if (!writer->Write(request)) break;
    request.clear_session_id();
  }
  writer->WritesDone();
  const absl::Status status = rpc::FromGrpc(writer->Finish());
  if (!status.ok()) return status;
  return response;
}

absl::Status Cluster::Ask(const v1::GenerateRequest& request, Answer* answer,
                          const std::function<bool(const v1::GenerateEvent&)>& on_event) {
  grpc::ClientContext context;
  rpc::SetTimeout(context, absl::Seconds(120));
  const auto reader = inference_->Generate(&context, request);
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    answer->events.push_back(event);
    if (event.has_token()) {
      answer->text += event.token().text();
      answer->ids.push_back(event.token().id());
    }
    if (event.has_finished()) answer->finished = event.finished();
    if (on_event && !on_event(event)) context.TryCancel();
  }
  return rpc::FromGrpc(reader->Finish());
}

absl::StatusOr<Answer> Cluster::Ask(const std::string& id, const std::string& question) {
  v1::GenerateRequest request;
  request.set_session_id(id);
  request.set_prompt(question);
  request.set_max_new_tokens(24);
  Answer answer;
  LEXICO_RETURN_IF_ERROR(Ask(request, &answer));
  return answer;
}

absl::StatusOr<v1::Session> Cluster::Get(const std::string& id) {
  v1::GetSessionRequest request;
  request.set_session_id(id);
  return Call(*inference_, &v1::Inference::Stub::GetSession, request);
}

absl::StatusOr<v1::Session> Cluster::Offload(const std::string& id) {
  v1::OffloadSessionRequest request;
  request.set_session_id(id);
  return Call(*inference_, &v1::Inference::Stub::OffloadSession, request);
}

absl::StatusOr<v1::Session> Cluster::Restore(const std::string& id, const std::string& worker) {
  v1::RestoreSessionRequest request;
  request.set_session_id(id);
  request.set_worker(worker);
  return Call(*inference_, &v1::Inference::Stub::RestoreSession, request);
}

absl::StatusOr<v1::Session> Cluster::Migrate(const std::string& id, const std::string& worker) {
  v1::MigrateSessionRequest request;
  request.set_session_id(id);
  request.set_worker(worker);
  return Call(*inference_, &v1::Inference::Stub::MigrateSession, request);
}

absl::StatusOr<v1::Session> Cluster::Fork(const std::string& id, const std::string& new_id) {
  v1::ForkSessionRequest request;
  request.set_session_id(id);
  request.set_new_session_id(new_id);
  return Call(*inference_, &v1::Inference::Stub::ForkSession, request);
}

absl::Status Cluster::Delete(const std::string& id) {
  v1::DeleteSessionRequest request;
  request.set_session_id(id);
  return Call(*inference_, &v1::Inference::Stub::DeleteSession, request).status();
}

absl::StatusOr<std::vector<v1::Worker>> Cluster::Workers() {
  grpc::ClientContext context;
  rpc::SetTimeout(context, absl::Seconds(10));
  v1::ListWorkersResponse response;
  const absl::Status status =
      rpc::FromGrpc(admin_->ListWorkers(&context, v1::ListWorkersRequest(), &response));
  if (!status.ok()) return status;
  return std::vector<v1::Worker>(response.workers().begin(), response.workers().end());
}

double Cluster::Metric(const std::string& server, const std::string& beginning) {
  const std::string text = HttpGet(metrics_address(server));
  const size_t at = text.find("\n" + beginning);
  if (at == std::string::npos) return -1;
  const size_t end = text.find('\n', at + 1);
  const std::string line = text.substr(at + 1, end - at - 1);
  return std::stod(line.substr(line.rfind(' ') + 1));
}

bool Cluster::Eventually(const std::function<bool()>& condition, double timeout_s) {
  const absl::Time deadline = absl::Now() + absl::Seconds(timeout_s);
  while (!condition()) {
    if (absl::Now() >= deadline) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

TestDocument MakeTestDocument(int n_bytes, int n_facts, int seed) {
  eval::DocumentOptions options;
  options.n_bytes = n_bytes;
  options.n_facts = n_facts;
  options.seed = static_cast<uint64_t>(seed);
  const auto document = eval::MakeDocument(options);
  EXPECT_TRUE(document.ok()) << document.status();
  TestDocument out;
  out.text = document->text;
  for (const eval::Fact& fact : document->facts) {
    out.questions.push_back(fact.question);
    out.answers.push_back(fact.answer);
  }
  return out;
}

v1::GenerateRequest LongRequest(const std::string& id, int max_new_tokens) {
  v1::GenerateRequest request;
  request.set_session_id(id);
  request.set_prompt("Tell a story.");
  request.set_max_new_tokens(max_new_tokens);
  request.set_ignore_end_tokens(true);
  return request;
}

}  // namespace lexico::tests

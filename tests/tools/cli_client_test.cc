// What `lexico` says of a call that failed, against a server in this process.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "proto/rpc/status_map.h"
#include "tests/support/status_matchers.h"
#include "tools/cli/client.h"

namespace lexico::cli {
namespace {

using absl::StatusCode;
using tests::StatusIs;

// Answers every ListModels with `status`, after `delay`.
class FailingServer : public v1::Inference::Service {
 public:
  FailingServer() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FailingServer() override { server_->Shutdown(std::chrono::system_clock::now()); }

  absl::Status status;
  absl::Duration delay;

  Globals globals() const { return {.server = fmt::format("127.0.0.1:{}", port_)}; }
  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                          v1::ListModelsResponse*) override {
    absl::SleepFor(delay);
    return rpc::ToGrpc(status);
  }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

absl::Status ListModels(const Globals& globals) {
  const auto client = Client::Connect(globals);
  if (!client.ok()) return client.status();
  return client->Call(&v1::Inference::Stub::ListModels, v1::ListModelsRequest(), absl::Seconds(20))
      .status();
}

TEST(CliClientTest, OnlyAMissingConnectionAsksForAServer) {
  const absl::Status nobody = ListModels({.server = "127.0.0.1:1"});
  EXPECT_THAT(nobody, StatusIs(StatusCode::kUnavailable, "is a server running at 127.0.0.1:1?"));
  FailingServer server;
  server.status = absl::UnavailableError("not now");
  const absl::Status answered = ListModels(server.globals());
  EXPECT_THAT(answered, StatusIs(StatusCode::kUnavailable, "not now"));
  EXPECT_EQ(answered.message(), "not now");
}

TEST(CliClientTest, DeadlineNamesTheTimeoutAndTheRemedy) {
  FailingServer server;
  server.delay = absl::Milliseconds(500);
  Globals globals = server.globals();
  globals.timeout_s = 0.25;
  EXPECT_THAT(ListModels(globals), StatusIs(StatusCode::kDeadlineExceeded,
                                            "within 250ms; give it longer with --timeout"));
}

TEST(CliClientTest, RemediesAreCommandsAndDetailsStay) {
  FailingServer server;
  server.status = rpc::WithDetail(
      absl::NotFoundError("no session ListSessions; ListSessions names those there are"),
      "session_unknown", absl::Milliseconds(7));
  const absl::Status status = ListModels(server.globals());
  EXPECT_EQ(status.message(),
            "no session ListSessions; `lexico session list` names those there are");
  EXPECT_EQ(rpc::ReasonOf(status), "session_unknown");
  EXPECT_EQ(rpc::RetryAfterOf(status), absl::Milliseconds(7));
}

}  // namespace
}  // namespace lexico::cli

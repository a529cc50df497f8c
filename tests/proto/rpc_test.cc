// Servers and channels as every process uses them, and statuses on their way through gRPC.
#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "lexico/v1/admin.grpc.pb.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/health.h"
#include "proto/rpc/server.h"
#include "proto/rpc/status_map.h"
#include "proto/rpc/tls.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tcp_relay.h"
#include "tests/support/temp_dir.h"

namespace lexico::rpc {
namespace {

using tests::IsOk;
using tests::StatusIs;
using enum absl::StatusCode;

// ListWorkers answers once it is let go.
class SlowAdmin final : public v1::Admin::Service {
 public:
  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override {
    ++n_running;
    go.WaitForNotificationWithTimeout(absl::Seconds(10));
    --n_running;
    return ToGrpc(
        WithDetail(absl::ResourceExhaustedError("full"), "queue_full", absl::Milliseconds(250)));
  }
  absl::Notification go;
  std::atomic<int> n_running{0};
};

absl::Status Call(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  SetTimeout(context, absl::Seconds(20));
  v1::ListWorkersResponse response;
  return FromGrpc(v1::Admin::NewStub(channel)->ListWorkers(&context, {}, &response));
}

class ServerTest : public testing::Test {
 protected:
  void Start(int threads_max = 0) {
    auto server = Server::Start("127.0.0.1:0", {&admin_}, {}, threads_max);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    address_ = "127.0.0.1:" + std::to_string(server_->port());
    channel_ = *MakeChannel(address_);
  }
  SlowAdmin admin_;
  std::unique_ptr<Server> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST(StatusMapTest, EveryCodeComesBack) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "message");
    const absl::Status back = FromGrpc(ToGrpc(status));
    EXPECT_EQ(back.code(), status.code());
    EXPECT_EQ(back.message(), "message");
    EXPECT_EQ(ReasonOf(back), "");
    EXPECT_EQ(RetryAfterOf(back), absl::ZeroDuration());
  }
  EXPECT_THAT(FromGrpc(ToGrpc(absl::OkStatus())), IsOk());
  EXPECT_THAT(WithDetail(absl::OkStatus(), "reason"), IsOk());
}

TEST(StatusMapTest, BytesThatAreNoDetailAreDropped) {
  const absl::Status status =
      FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, "m", "\xff\xff\xff"));
  EXPECT_THAT(status, StatusIs(kInternal, "m"));
  EXPECT_EQ(ReasonOf(status), "");
}

TEST_F(ServerTest, DetailsTravelThroughACall) {
  Start();
  admin_.go.Notify();
  const absl::Status status = Call(channel_);
  EXPECT_THAT(status, StatusIs(kResourceExhausted, "full"));
  EXPECT_EQ(ReasonOf(status), "queue_full");
  EXPECT_EQ(RetryAfterOf(status), absl::Milliseconds(250));
}

// A busy machine or a far one: the first bytes of a connection take longer than a retry waits.
TEST_F(ServerTest, APeerThatIsSlowToConnectIsWaitedFor) {
  Start();
  admin_.go.Notify();
  tests::TcpRelay relay(server_->port());
  relay.Hold(true);
  std::thread later([&] {
    absl::SleepFor(absl::Milliseconds(700));
    relay.Hold(false);
  });
  const auto channel = MakeChannel("127.0.0.1:" + std::to_string(relay.port()));
  EXPECT_THAT(Call(*channel), StatusIs(kResourceExhausted, "full"));
  later.join();
}

TEST_F(ServerTest, HealthFollowsServing) {
  Start();
  EXPECT_THAT(CheckHealth(channel_, absl::Seconds(5)), StatusIs(kUnavailable, "NOT_SERVING"));
  EXPECT_THAT(WaitUntilServing(channel_, address_, absl::Milliseconds(50)),
              StatusIs(kDeadlineExceeded, address_));
  server_->SetServing(true);
  EXPECT_THAT(CheckHealth(channel_, absl::Seconds(5)), IsOk());
  EXPECT_THAT(WaitUntilServing(channel_, address_, absl::Seconds(5)), IsOk());
}

TEST_F(ServerTest, PortInUseIsUnavailableWithTheAddress) {
  Start();
  EXPECT_THAT(Server::Start(address_, {}), StatusIs(kUnavailable, address_));
}

TEST_F(ServerTest, MoreCallsThanThreadsAreRefusedAndHealthIsStillAnswered) {
  Start(/*threads_max=*/4);
  server_->SetServing(true);
  std::atomic<int> n_refused{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 12; ++i) {
    callers.emplace_back([&] {
      const absl::Status status = Call(channel_);
      // Ours has a reason, gRPC's own has none.
      if (absl::IsResourceExhausted(status) && ReasonOf(status).empty()) ++n_refused;
    });
  }
  const absl::Time deadline = absl::Now() + absl::Seconds(8);
  while (n_refused == 0 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_GT(n_refused, 0);
  EXPECT_LE(admin_.n_running, 4);
  EXPECT_THAT(CheckHealth(channel_, absl::Seconds(5)), IsOk());
  admin_.go.Notify();
  for (std::thread& caller : callers) caller.join();
}

TEST_F(ServerTest, ShutdownLetsRunningCallsEnd) {
  Start();
  absl::Status status;
  std::thread caller([&] { status = Call(channel_); });
  while (admin_.n_running == 0) absl::SleepFor(absl::Milliseconds(1));
  std::thread ender([&] { server_->Shutdown(absl::Seconds(10)); });
  admin_.go.Notify();
  ender.join();
  caller.join();
  EXPECT_EQ(ReasonOf(status), "queue_full");
}

TEST(ChannelTest, AddressWithoutPortIsRefused) {
  EXPECT_THAT(MakeChannel("localhost"), StatusIs(kInvalidArgument, "localhost"));
  EXPECT_THAT(MakeChannel("localhost:0"), StatusIs(kInvalidArgument, "port 0"));
  EXPECT_THAT(Server::Start("localhost:65536", {}), StatusIs(kInvalidArgument, "65536"));
  EXPECT_THAT(MakeChannel("localhost:"), StatusIs(kInvalidArgument, "host:port"));
}

TEST(ChannelTest, DeadPeerIsUnavailable) {
  EXPECT_THAT(Call(*MakeChannel("127.0.0.1:1")), StatusIs(kUnavailable, ""));
}

TEST(TlsTest, MissingFilesAndHalfPairsAreNamed) {
  EXPECT_THAT(ServerCredentials({.certificate_file = "/none/cert.pem", .key_file = "/none/k.pem"}),
              StatusIs(kInvalidArgument, "/none/cert.pem"));
  EXPECT_THAT(ServerCredentials({.certificate_file = "cert.pem"}),
              StatusIs(kInvalidArgument, "both a certificate (\"cert.pem\") and a key (\"\")"));
  EXPECT_THAT(ClientCredentials({.key_file = "k.pem"}), StatusIs(kInvalidArgument, "k.pem"));
  EXPECT_THAT(ServerCredentials({.ca_file = "ca.pem"}), StatusIs(kInvalidArgument, "ca.pem"));
  EXPECT_THAT(ClientCredentials({.ca_file = "/none/ca.pem"}),
              StatusIs(kInvalidArgument, "/none/ca.pem"));
  EXPECT_THAT(ServerCredentials({}), IsOk());
  EXPECT_THAT(ClientCredentials({}), IsOk());
}

TEST(TlsTest, CertificateThatIsNoneStopsTheServer) {
  const tests::TempDir dir;
  const TlsOptions tls = {.certificate_file = dir.Write("cert.pem", "no certificate"),
                          .key_file = dir.Write("key.pem", "no key")};
  EXPECT_FALSE(Server::Start("127.0.0.1:0", {}, tls).ok());
}

}  // namespace
}  // namespace lexico::rpc

// The registrar against a registry that the test plays.
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/server.h"
#include "proto/rpc/status_map.h"
#include "worker/service/registrar.h"

namespace lexico::worker {
namespace {

class FakeRegistry final : public v1::WorkerRegistry::Service {
 public:
  grpc::Status Register(grpc::ServerContext*, const v1::RegisterRequest* request,
                        v1::RegisterResponse* response) override {
    absl::MutexLock lock(&mutex_);
    registered_ = *request;
    ++n_registers_;
    lease_ = "lease-" + std::to_string(n_registers_);
    response->set_lease_id(lease_);
    response->set_lease_ms(60);
    return grpc::Status::OK;
  }
  grpc::Status Heartbeat(grpc::ServerContext*, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    absl::MutexLock lock(&mutex_);
    if (request->lease_id() != lease_) {
      return rpc::ToGrpc(rpc::WithDetail(absl::FailedPreconditionError("who?"), "lease_unknown"));
    }
    ++n_beats_;
    last_beat_ = *request;
    if (!revoke_.empty()) {
      response->add_revoked()->set_session_id(revoke_);
      response->mutable_revoked(0)->set_epoch(7);
      revoke_.clear();
    }
    return grpc::Status::OK;
  }
  grpc::Status Deregister(grpc::ServerContext*, const v1::DeregisterRequest* request,
                          v1::DeregisterResponse*) override {
    absl::MutexLock lock(&mutex_);
    deregistered_ = request->worker_id();
    return grpc::Status::OK;
  }

  absl::Mutex mutex_;
  std::string lease_;
  std::string revoke_;
  std::string deregistered_;
  v1::RegisterRequest registered_;
  v1::HeartbeatRequest last_beat_;
  int n_registers_ = 0;
  int n_beats_ = 0;
};

class RegistrarTest : public testing::Test {
 protected:
  void StartServer(const std::string& address) {
    server_ = *rpc::Server::Start(address, {&registry_});
  }
  std::unique_ptr<Registrar> MakeRegistrar(const std::string& address) {
    RegistrarOptions options{.worker_id = "w", .address = "here:1", .coordinator = address};
    options.model.set_name("m");
    return std::make_unique<Registrar>(
        options, v1::WorkerRegistry::NewStub(*rpc::MakeChannel(address)),
        [] {
          v1::WorkerLoad load;
          load.set_n_pages_free(12);
          return load;
        },
        [this] {
          absl::MutexLock lock(&registry_.mutex_);
          return held_;
        },
        [this](const v1::SessionAtEpoch& session) {
          absl::MutexLock lock(&registry_.mutex_);
          revoked_.push_back(session);
        });
  }
  template <typename F>
  bool Eventually(F condition) {
    for (int i = 0; i < 500; ++i) {
      {
        absl::MutexLock lock(&registry_.mutex_);
        if (condition()) return true;
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  static v1::SessionAtEpoch Session(const std::string& id, uint64_t epoch) {
    v1::SessionAtEpoch session;
    session.set_session_id(id);
    session.set_epoch(epoch);
    return session;
  }

  FakeRegistry registry_;
  std::unique_ptr<rpc::Server> server_;
  std::vector<v1::SessionAtEpoch> held_;
  std::vector<v1::SessionAtEpoch> revoked_;
};

TEST_F(RegistrarTest, RegistersAndBeatsWithWhatItHolds) {
  StartServer("127.0.0.1:0");
  held_ = {Session("s", 3)};
  const auto registrar = MakeRegistrar("127.0.0.1:" + std::to_string(server_->port()));
  ASSERT_TRUE(registrar->WaitUntilRegistered(absl::Seconds(5)));
  EXPECT_TRUE(Eventually([&] { return registry_.n_beats_ >= 2; }));
  absl::MutexLock lock(&registry_.mutex_);
  EXPECT_EQ(registry_.registered_.worker_id(), "w");
  EXPECT_EQ(registry_.registered_.address(), "here:1");
  EXPECT_EQ(registry_.registered_.model().name(), "m");
  EXPECT_EQ(registry_.last_beat_.load().n_pages_free(), 12);
  ASSERT_EQ(registry_.last_beat_.sessions_size(), 1);
  EXPECT_EQ(registry_.last_beat_.sessions(0).epoch(), 3u);
}

TEST_F(RegistrarTest, UnknownLeaseRegistersAgain) {
  StartServer("127.0.0.1:0");
  const auto registrar = MakeRegistrar("127.0.0.1:" + std::to_string(server_->port()));
  ASSERT_TRUE(registrar->WaitUntilRegistered(absl::Seconds(5)));
  {
    absl::MutexLock lock(&registry_.mutex_);
    registry_.lease_ = "of another life";
  }
  EXPECT_TRUE(Eventually([&] { return registry_.n_registers_ == 2; }));
  EXPECT_TRUE(Eventually([&] { return registry_.n_beats_ >= 1; }));
}

TEST_F(RegistrarTest, RevokedSessionsAreHandedOn) {
  StartServer("127.0.0.1:0");
  registry_.revoke_ = "s";
  const auto registrar = MakeRegistrar("127.0.0.1:" + std::to_string(server_->port()));
  EXPECT_TRUE(Eventually([&] { return !revoked_.empty(); }));
  absl::MutexLock lock(&registry_.mutex_);
  EXPECT_EQ(revoked_[0].session_id(), "s");
  EXPECT_EQ(revoked_[0].epoch(), 7u);
}

TEST_F(RegistrarTest, CoordinatorThatComesLateIsFound) {
  StartServer("127.0.0.1:0");
  const std::string address = "127.0.0.1:" + std::to_string(server_->port());
  server_.reset();
  const auto registrar = MakeRegistrar(address);
  EXPECT_FALSE(registrar->WaitUntilRegistered(absl::Milliseconds(100)));
  StartServer(address);
  EXPECT_TRUE(registrar->WaitUntilRegistered(absl::Seconds(10)));
}

TEST_F(RegistrarTest, LeavingTellsWhatIsLeftFirst) {
  StartServer("127.0.0.1:0");
  held_ = {Session("s", 3)};
  const auto registrar = MakeRegistrar("127.0.0.1:" + std::to_string(server_->port()));
  ASSERT_TRUE(registrar->WaitUntilRegistered(absl::Seconds(5)));
  {
    absl::MutexLock lock(&registry_.mutex_);
    held_.clear();
  }
  registrar->Stop(/*deregister=*/true);
  absl::MutexLock lock(&registry_.mutex_);
  EXPECT_EQ(registry_.deregistered_, "w");
  EXPECT_EQ(registry_.last_beat_.sessions_size(), 0);
}

}  // namespace
}  // namespace lexico::worker

// A coordinator with fake workers and a client, in one process, over real gRPC on loopback.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/service/server.h"
#include "coordinator/state/local_state.h"
#include "lexico/v1/admin.grpc.pb.h"
#include "lexico/v1/inference.grpc.pb.h"
#include "proto/rpc/status_map.h"
#include "tests/support/fake_worker.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lexico::coord {

// What a client saw of one Generate.
struct Answer {
  absl::Status status;
  std::vector<int32_t> ids;
  std::string text;
  int n_started = 0;
  int n_finished = 0;
  bool in_order = true;  // indices 0, 1, 2, ... and Progress before Token
  std::string worker;    // of Started
};

class ClusterFixture : public testing::Test {
 protected:
  void SetUp() override { StartCoordinator(); }
  void TearDown() override {
    workers_.clear();
    StopCoordinator();
  }

  void StartCoordinator();
  void StopCoordinator();
  // Same port, same data folder.
  void RestartCoordinator() {
    StopCoordinator();
    StartCoordinator();
  }

  // A fake that registered; waits until the coordinator lists it.
  tests::FakeWorker& AddWorker(const std::string& id, tests::FakeWorkerOptions options = {});
  tests::FakeWorker& WorkerAt(const std::string& id) { return *workers_.at(id); }
  // The one that is not `id`, of two.
  std::string Other(const std::string& id) { return id == "w1" ? "w2" : "w1"; }

  // Polls until `condition` holds; fails the test after 5 s.
  void Eventually(const std::function<bool()>& condition, const char* what);

  std::unique_ptr<grpc::ClientContext> Context(const std::string& tenant = "");
  absl::StatusOr<v1::Session> Create(const std::string& id, const std::string& tenant = "");
  absl::StatusOr<v1::Session> Create(const v1::CreateSessionRequest& request);
  absl::StatusOr<v1::Session> Get(const std::string& id, const std::string& tenant = "");
  absl::StatusOr<v1::AppendTextResponse> Append(const std::string& id,
                                                const std::vector<std::string>& chunks);
  Answer Generate(const std::string& id, const std::string& prompt, int n_tokens,
                  grpc::ClientContext* context = nullptr);
  absl::StatusOr<v1::Session> Offload(const std::string& id);
  absl::StatusOr<v1::Session> Restore(const std::string& id, const std::string& worker = "");
  absl::StatusOr<v1::Session> Migrate(const std::string& id, const std::string& worker = "");
  absl::StatusOr<v1::Session> Fork(const std::string& id, const std::string& child);
  absl::Status Delete(const std::string& id, const std::string& tenant = "");
  // By id, as ListSessions tells it.
  std::map<std::string, v1::Session> List();
  v1::WorkerState StateOfWorker(const std::string& id);
  double MetricSum(const std::string& name);

  tests::TempDir dir_;
  ClusterOptions options_{.lease = absl::Milliseconds(400),
                          .store_retry = absl::Milliseconds(50),
                          .facts_age = absl::Milliseconds(100)};
  std::string store_address_;  // of a real store; the fakes' is store_
  std::string address_ = "127.0.0.1:0";
  tests::FakeStore store_;
  std::unique_ptr<LocalState> state_;
  std::unique_ptr<base::Metrics> metrics_;
  std::unique_ptr<CoordinatorServer> server_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Admin::Stub> admin_;
  std::map<std::string, std::unique_ptr<tests::FakeWorker>> workers_;
};

}  // namespace lexico::coord

// A running coordinator: state, services, ticker and server, put together.
//
// Threads: each call holds one (synchronous gRPC), bounded by admission's calls_max and, for all
// kinds of calls together, by calls_max + kSpareThreads. Health checks are served by gRPC's
// callbacks outside that bound, so they are answered however many calls wait. Three more do the
// chores: leases and gauges, sessions' facts, and what waits for the store.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/service/admin_service.h"
#include "coordinator/service/cluster.h"
#include "coordinator/service/deleter.h"
#include "coordinator/service/facts.h"
#include "coordinator/service/inference_service.h"
#include "coordinator/service/mover.h"
#include "coordinator/service/periodic.h"
#include "coordinator/service/registry_service.h"
#include "coordinator/service/store_link.h"
#include "coordinator/state/cluster_state.h"
#include "proto/base/metrics.h"
#include "proto/rpc/server.h"

namespace lexico::coord {

struct CoordinatorServerOptions {
  std::string address;  // host:port; port 0 picks one
  ClusterOptions cluster;
  rpc::TlsOptions tls;  // towards clients, workers and the store
  std::string store;    // host:port of the cache store; empty: it is reached through workers only
};

class CoordinatorServer {
 public:
  // Calls that are none of admission's: heartbeats, moves, reads. One per worker and a few dozen
  // clients at a time; what comes on top is RESOURCE_EXHAUSTED and retried.
  static constexpr int kSpareThreads = 128;

  // Takes up the state, serves, and is SERVING. `state` and `metrics` must outlive this.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(
      const CoordinatorServerOptions& options, ClusterState& state, base::Metrics& metrics);
  ~CoordinatorServer();

  int port() const { return server_->port(); }
  Cluster& cluster() { return cluster_; }

  // NOT_SERVING; new calls and waiting ones are refused, running ones have `grace` to end. Blocks.
  void Shutdown(absl::Duration grace);

 private:
  CoordinatorServer(const CoordinatorServerOptions& options, std::unique_ptr<StoreLink> store,
                    ClusterState& state, base::Metrics& metrics);

  Cluster cluster_;
  const std::unique_ptr<StoreLink> store_;  // null: none
  Mover mover_;
  Deleter deleter_;
  FactsKeeper facts_;
  InferenceService inference_;
  AdminService admin_;
  RegistryService registry_;
  std::unique_ptr<rpc::Server> server_;
  std::vector<std::unique_ptr<Periodic>> chores_;
};

}  // namespace lexico::coord

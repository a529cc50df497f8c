#include "coordinator/service/server.h"

#include <algorithm>

#include "proto/base/status.h"

namespace lexico::coord {

CoordinatorServer::CoordinatorServer(const CoordinatorServerOptions& options,
                                     std::unique_ptr<StoreLink> store, ClusterState& state,
                                     base::Metrics& metrics)
    : cluster_(options.cluster, state, metrics, *base::Clock::Real()),
      store_(std::move(store)),
      mover_(cluster_),
      deleter_(cluster_, store_.get()),
      facts_(cluster_, store_.get()),
      inference_(cluster_, mover_, deleter_),
      admin_(cluster_, mover_, store_.get()),
      registry_(cluster_) {}

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    const CoordinatorServerOptions& options, ClusterState& state, base::Metrics& metrics) {
  std::unique_ptr<StoreLink> store;
  if (!options.store.empty()) {
    LEXICO_ASSIGN_OR_RETURN(store, StoreLink::Create(options.store, options.tls));
  }
  auto server = std::unique_ptr<CoordinatorServer>(
      new CoordinatorServer(options, std::move(store), state, metrics));
  LEXICO_RETURN_IF_ERROR(server->cluster_.Recover());
  server->cluster_.Tick();
  LEXICO_ASSIGN_OR_RETURN(
      server->server_,
      rpc::Server::Start(options.address,
                         {&server->inference_, &server->admin_, &server->registry_}, options.tls,
                         options.cluster.admission.calls_max + kSpareThreads));
  // A tenth of a lease: a loss is noticed at most that much later than it could be.
  const absl::Duration lease = options.cluster.lease;
  const absl::Duration tick = std::clamp(lease / 10, absl::Milliseconds(10), absl::Seconds(1));
  const auto every = [raw = server.get()](absl::Duration period, std::function<void()> run) {
    raw->chores_.push_back(std::make_unique<Periodic>(period, std::move(run)));
  };
  every(tick, [raw = server.get()] { raw->cluster_.Tick(); });
  every(options.cluster.facts_age / 2, [raw = server.get()] { raw->facts_.RefreshFromWorkers(); });
  every(options.cluster.store_retry, [raw = server.get()] {
    raw->deleter_.RetryPending();
    raw->facts_.RefreshTiers();
  });
  server->server_->SetServing(true);
  return server;
}

CoordinatorServer::~CoordinatorServer() {
  if (server_ != nullptr) Shutdown(absl::ZeroDuration());
}

void CoordinatorServer::Shutdown(absl::Duration grace) {
  server_->SetServing(false);
  cluster_.BeginShutdown();
  for (const auto& chore : chores_) chore->Stop();
  server_->Shutdown(grace);
  chores_.clear();
}

}  // namespace lexico::coord

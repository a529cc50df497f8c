#include "coordinator/service/server.h"

#include <algorithm>

#include "proto/base/status.h"

namespace lexico::coord {

CoordinatorServer::CoordinatorServer(const CoordinatorServerOptions& options, ClusterState& state,
                                     base::Metrics& metrics)
    : cluster_(options.cluster, state, metrics, *base::Clock::Real()),
      mover_(cluster_),
      inference_(cluster_, mover_),
      admin_(cluster_, mover_),
      registry_(cluster_) {}

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    const CoordinatorServerOptions& options, ClusterState& state, base::Metrics& metrics) {
  auto server = std::unique_ptr<CoordinatorServer>(new CoordinatorServer(options, state, metrics));
  LEXICO_RETURN_IF_ERROR(server->cluster_.Recover());
  server->cluster_.Tick();
  LEXICO_ASSIGN_OR_RETURN(
      server->server_,
      rpc::Server::Start(options.address,
                         {&server->inference_, &server->admin_, &server->registry_}, options.tls,
                         options.cluster.admission.calls_max + kSpareThreads));
  server->ticker_ = std::thread([raw = server.get()] { raw->TickUntilStopped(); });
  server->server_->SetServing(true);
  return server;
}

CoordinatorServer::~CoordinatorServer() {
  if (server_ != nullptr) Shutdown(absl::ZeroDuration());
}

void CoordinatorServer::TickUntilStopped() {
  // A tenth of a lease: a loss is noticed at most that much later than it could be.
  const absl::Duration period =
      std::clamp(cluster_.options().lease / 10, absl::Milliseconds(10), absl::Seconds(1));
  while (!stop_.WaitForNotificationWithTimeout(period)) cluster_.Tick();
}

void CoordinatorServer::Shutdown(absl::Duration grace) {
  server_->SetServing(false);
  cluster_.BeginShutdown();
  if (!stop_.HasBeenNotified()) stop_.Notify();
  server_->Shutdown(grace);
  if (ticker_.joinable()) ticker_.join();
}

}  // namespace lexico::coord

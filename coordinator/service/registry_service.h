// lexico.v1.WorkerRegistry: what workers call.
#pragma once

#include "coordinator/service/cluster.h"
#include "lexico/v1/worker.grpc.pb.h"

namespace lexico::coord {

class RegistryService final : public v1::WorkerRegistry::Service {
 public:
  // `cluster` must outlive this.
  explicit RegistryService(Cluster& cluster) : cluster_(cluster) {}

  grpc::Status Register(grpc::ServerContext* context, const v1::RegisterRequest* request,
                        v1::RegisterResponse* response) override;
  grpc::Status Heartbeat(grpc::ServerContext* context, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override;
  grpc::Status Deregister(grpc::ServerContext* context, const v1::DeregisterRequest* request,
                          v1::DeregisterResponse* response) override;

 private:
  Cluster& cluster_;
};

}  // namespace lexico::coord

// lexico.v1.Admin: what operators call.
#pragma once

#include "coordinator/service/cluster.h"
#include "coordinator/service/mover.h"
#include "lexico/v1/admin.grpc.pb.h"

namespace lexico::coord {

class AdminService final : public v1::Admin::Service {
 public:
  // Both must outlive this.
  AdminService(Cluster& cluster, Mover& mover) : cluster_(cluster), mover_(mover) {}

  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override;
  grpc::Status DrainWorker(grpc::ServerContext* context, const v1::DrainWorkerRequest* request,
                           grpc::ServerWriter<v1::DrainWorkerEvent>* writer) override;

 private:
  absl::Status Drain(grpc::ServerContext* context, const std::string& worker_id,
                     grpc::ServerWriter<v1::DrainWorkerEvent>* writer);
  // Moves one session away, to another worker where there is room, else to the store. Returns where
  // it went, or "" when it had left by itself.
  absl::StatusOr<std::string> MoveAway(const Caller& caller, const std::string& worker_id,
                                       const std::string& session_id);

  Cluster& cluster_;
  Mover& mover_;
};

}  // namespace lexico::coord

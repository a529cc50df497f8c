// lexico.v1.Admin: what operators call.
#pragma once

#include "coordinator/service/cluster.h"
#include "coordinator/service/mover.h"
#include "coordinator/service/store_link.h"
#include "lexico/v1/admin.grpc.pb.h"

namespace lexico::coord {

class AdminService final : public v1::Admin::Service {
 public:
  // All must outlive this; `store` may be null.
  AdminService(Cluster& cluster, Mover& mover, const StoreLink* store)
      : cluster_(cluster), mover_(mover), store_(store) {}

  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override;
  grpc::Status DrainWorker(grpc::ServerContext* context, const v1::DrainWorkerRequest* request,
                           grpc::ServerWriter<v1::DrainWorkerEvent>* writer) override;
  grpc::Status ListOrphans(grpc::ServerContext* context, const v1::ListOrphansRequest* request,
                           v1::ListOrphansResponse* response) override;
  grpc::Status DeleteOrphan(grpc::ServerContext* context, const v1::DeleteOrphanRequest* request,
                            v1::DeleteOrphanResponse* response) override;
  grpc::Status GetStoreStatus(grpc::ServerContext* context, const v1::GetStatusRequest* request,
                              v1::StoreStatus* response) override;
  grpc::Status VerifyStore(grpc::ServerContext* context, const v1::VerifyRequest* request,
                           grpc::ServerWriter<v1::VerifyProgress>* writer) override;

 private:
  absl::Status Drain(grpc::ServerContext* context, const std::string& worker_id,
                     grpc::ServerWriter<v1::DrainWorkerEvent>* writer);
  // Moves one session away, to another worker where there is room, else to the store. Returns where
  // it went, or "" when it had left by itself.
  absl::StatusOr<std::string> MoveAway(const Caller& caller, const std::string& worker_id,
                                       const std::string& session_id);

  Cluster& cluster_;
  Mover& mover_;
  const StoreLink* const store_;
};

}  // namespace lexico::coord

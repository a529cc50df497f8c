// lexico.v1.WorkerService over the engine: sessions of text.
//
// Each running call holds one of gRPC's threads, which it spends waiting; the engine has its own.
// How many calls there can be is bounded by the engine's queue and, for documents that are still
// arriving, by kUploadsMax.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <atomic>
#include <vector>

#include "lexico/v1/worker.grpc.pb.h"
#include "worker/service/service_context.h"

namespace lexico::worker {

class SessionService final : public v1::WorkerService::Service {
 public:
  // Documents that may be on their way in at once: each holds up to limits.h kAppendBytesMax.
  static constexpr int kUploadsMax = 16;

  // `context` must outlive this object.
  explicit SessionService(ServiceContext& context) : context_(context) {}

  // No new call is taken; running ones have half of `timeout` to end and then end as if the
  // connection had failed. All sessions go to the store in the rest of the time. Returns how many
  // could not. Blocks.
  int Drain(absl::Duration timeout);

  // For the coordinator.
  v1::WorkerLoad Load() const;
  std::vector<v1::SessionAtEpoch> Held() const;
  void Revoke(const v1::SessionAtEpoch& session);

  grpc::Status OpenSession(grpc::ServerContext* rpc, const v1::OpenSessionRequest* request,
                           v1::Session* response) override;
  grpc::Status Append(grpc::ServerContext* rpc, grpc::ServerReader<v1::WorkerAppendRequest>* reader,
                      v1::AppendTextResponse* response) override;
  grpc::Status Run(grpc::ServerContext* rpc, const v1::RunRequest* request,
                   grpc::ServerWriter<v1::GenerateEvent>* writer) override;
  grpc::Status Fork(grpc::ServerContext* rpc, const v1::WorkerForkRequest* request,
                    v1::Session* response) override;
  grpc::Status Describe(grpc::ServerContext* rpc, const v1::SessionAtEpoch* request,
                        v1::Session* response) override;
  grpc::Status Demote(grpc::ServerContext* rpc, const v1::DemoteRequest* request,
                      v1::Session* response) override;
  grpc::Status Offload(grpc::ServerContext* rpc, const v1::SessionAtEpoch* request,
                       v1::Session* response) override;
  grpc::Status Restore(grpc::ServerContext* rpc, const v1::RestoreRequest* request,
                       v1::Session* response) override;
  grpc::Status Release(grpc::ServerContext* rpc, const v1::ReleaseRequest* request,
                       v1::ReleaseResponse* response) override;
  grpc::Status GetModel(grpc::ServerContext* rpc, const v1::GetModelRequest* request,
                        v1::ModelInfo* response) override;
  grpc::Status TokenizeText(grpc::ServerContext* rpc, const v1::TokenizeRequest* request,
                            v1::TokenizeResponse* response) override;
  grpc::Status DetokenizeIds(grpc::ServerContext* rpc, const v1::DetokenizeRequest* request,
                             v1::DetokenizeResponse* response) override;

 private:
  absl::Status Open(const v1::OpenSessionRequest& request, v1::Session* response);
  absl::Status ForkSession(const v1::WorkerForkRequest& request, v1::Session* response);
  absl::Status DemoteSession(const v1::DemoteRequest& request, v1::Session* response);
  absl::Status OffloadSession(const v1::SessionAtEpoch& request, absl::Time deadline,
                              v1::Session* response);
  absl::Status RestoreSession(const v1::RestoreRequest& request, absl::Time deadline,
                              v1::Session* response);
  absl::Status ReleaseSession(const v1::ReleaseRequest& request, absl::Time deadline);
  // True: a session that is here already, at a smaller epoch, and as its client believes, stayed.
  // Unavailable "store_unavailable": the store cannot say whether another owner went on since.
  absl::StatusOr<bool> KeepHeld(const v1::RestoreRequest& request, absl::Time deadline,
                                v1::Session* response);
  absl::StatusOr<bool> IsNewest(const v1::RestoreRequest& request, const SessionRecord& held,
                                absl::Time deadline);

  ServiceContext& context_;
  std::atomic<int> n_uploads_ = 0;
};

}  // namespace lexico::worker

// lexico.v1.Inference: what clients call. Each method checks, acts through Cluster, Mover and
// Deleter, and converts; the two streams are in generate.h and append.h.
//
// The synchronous API: a call holds a thread while it runs. Admission bounds the calls and the
// server the threads (service/server.h), so that a flood is answered RESOURCE_EXHAUSTED and health
// checks, which need no such thread, go on.
#pragma once

#include "coordinator/service/cluster.h"
#include "coordinator/service/deleter.h"
#include "coordinator/service/mover.h"
#include "lexico/v1/inference.grpc.pb.h"

namespace lexico::coord {

class InferenceService final : public v1::Inference::Service {
 public:
  // All must outlive this.
  InferenceService(Cluster& cluster, Mover& mover, Deleter& deleter)
      : cluster_(cluster), mover_(mover), deleter_(deleter) {}

  grpc::Status CreateSession(grpc::ServerContext* context, const v1::CreateSessionRequest* request,
                             v1::Session* response) override;
  grpc::Status AppendText(grpc::ServerContext* context,
                          grpc::ServerReader<v1::AppendTextRequest>* reader,
                          v1::AppendTextResponse* response) override;
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateEvent>* writer) override;
  grpc::Status ForkSession(grpc::ServerContext* context, const v1::ForkSessionRequest* request,
                           v1::Session* response) override;
  grpc::Status GetSession(grpc::ServerContext* context, const v1::GetSessionRequest* request,
                          v1::Session* response) override;
  grpc::Status ListSessions(grpc::ServerContext* context, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override;
  grpc::Status OffloadSession(grpc::ServerContext* context,
                              const v1::OffloadSessionRequest* request,
                              v1::Session* response) override;
  grpc::Status RestoreSession(grpc::ServerContext* context,
                              const v1::RestoreSessionRequest* request,
                              v1::Session* response) override;
  grpc::Status MigrateSession(grpc::ServerContext* context,
                              const v1::MigrateSessionRequest* request,
                              v1::Session* response) override;
  grpc::Status DemoteSession(grpc::ServerContext* context, const v1::DemoteSessionRequest* request,
                             v1::Session* response) override;
  grpc::Status DeleteSession(grpc::ServerContext* context, const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse* response) override;
  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override;
  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override;
  grpc::Status Detokenize(grpc::ServerContext* context, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override;

 private:
  absl::Status Create(const Caller& caller, const v1::CreateSessionRequest& request,
                      v1::Session* response);
  absl::Status Fork(const Caller& caller, const v1::ForkSessionRequest& request,
                    v1::Session* response);
  absl::Status Describe(const Caller& caller, const std::string& session_id, v1::Session* response);
  absl::Status List(const Caller& caller, const v1::ListSessionsRequest& request,
                    v1::ListSessionsResponse* response);
  absl::Status Restore(const Caller& caller, const v1::RestoreSessionRequest& request,
                       v1::Session* response);

  absl::Status Demote(const Caller& caller, const v1::DemoteSessionRequest& request,
                      v1::Session* response);

  Cluster& cluster_;
  Mover& mover_;
  Deleter& deleter_;
};

}  // namespace lexico::coord

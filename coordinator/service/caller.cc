#include "coordinator/service/caller.h"

#include "absl/time/clock.h"
#include "coordinator/service/validate.h"
#include "proto/base/status.h"

namespace lexico::coord {

absl::StatusOr<Caller> Caller::FromContext(grpc::ServerContext* context) {
  const auto& metadata = context->client_metadata();
  const auto it = metadata.find("lexico-tenant");
  std::string tenant;
  if (it != metadata.end()) tenant.assign(it->second.data(), it->second.size());
  if (!tenant.empty()) LEXICO_RETURN_IF_ERROR(CheckName("metadata lexico-tenant", tenant));
  return Caller(context, std::move(tenant));
}

absl::Status Caller::StillThere() const {
  if (context_->IsCancelled()) return absl::CancelledError("the client cancelled the call");
  if (absl::FromChrono(context_->deadline()) <= absl::Now()) {
    return absl::DeadlineExceededError("the call's deadline passed");
  }
  return absl::OkStatus();
}

std::unique_ptr<grpc::ClientContext> Caller::ContextForWorker() const {
  return grpc::ClientContext::FromServerContext(*context_);
}

}  // namespace lexico::coord

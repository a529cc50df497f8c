// Who calls, and whether they still listen.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace lexico::coord {

// One client call. The context is not owned and outlives this.
class Caller {
 public:
  // The tenant is the metadata "lexico-tenant", "" without it. InvalidArgument for a name outside
  // [A-Za-z0-9._-]{0,128}.
  static absl::StatusOr<Caller> FromContext(grpc::ServerContext* context);

  const std::string& tenant() const { return tenant_; }
  grpc::ServerContext* context() const { return context_; }

  // OK while the client waits; Cancelled or DeadlineExceeded after.
  absl::Status StillThere() const;

  // Prepares a call made for this one: its deadline and cancellation go along.
  std::unique_ptr<grpc::ClientContext> ContextForWorker() const;

 private:
  Caller(grpc::ServerContext* context, std::string tenant)
      : context_(context), tenant_(std::move(tenant)) {}

  grpc::ServerContext* context_;
  std::string tenant_;
};

}  // namespace lexico::coord

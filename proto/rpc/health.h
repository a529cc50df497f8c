// A client of grpc.health.v1.Health (the standard health protocol of gRPC).
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace lexico::rpc {

// OK when the peer answers SERVING for service "", Unavailable when it answers anything else, or
// the call's own error.
absl::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel, absl::Duration timeout);

}  // namespace lexico::rpc

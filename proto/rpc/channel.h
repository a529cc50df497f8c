// Client channels with the limits of limits.h and keepalive.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/rpc/server.h"

namespace lexico::rpc {

// Connects lazily; a dead peer shows as UNAVAILABLE on the first call. `address` is host:port.
// InvalidArgument as base::CheckAddress.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const TlsOptions& tls = {});

// Waits until the peer's health service answers SERVING, asking every 20 ms. DeadlineExceeded with
// the address and the last answer.
absl::Status WaitUntilServing(const std::shared_ptr<grpc::Channel>& channel,
                              const std::string& address, absl::Duration timeout);

// A deadline for a context, `timeout` from now.
void SetTimeout(grpc::ClientContext& context, absl::Duration timeout);

}  // namespace lexico::rpc

// gRPC credentials from PEM files.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/statusor.h"
#include "proto/rpc/server.h"

namespace lexico::rpc {

// Without files: insecure credentials, for loopback and trusted networks. InvalidArgument names a
// file that is missing, unreadable or given without its partner.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const TlsOptions& tls);
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientCredentials(const TlsOptions& tls);

}  // namespace lexico::rpc

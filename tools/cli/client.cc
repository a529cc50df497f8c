#include "tools/cli/client.h"

#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"

namespace lexico::cli {

absl::StatusOr<Client> Client::Connect(const Globals& globals) {
  LEXICO_ASSIGN_OR_RETURN(const auto channel, rpc::MakeChannel(globals.server, globals.tls));
  Client client;
  client.globals_ = globals;
  client.inference_ = v1::Inference::NewStub(channel);
  client.admin_ = v1::Admin::NewStub(channel);
  return client;
}

std::unique_ptr<grpc::ClientContext> Client::NewContext(absl::Duration timeout) const {
  auto context = std::make_unique<grpc::ClientContext>();
  if (!globals_.tenant.empty()) context->AddMetadata("lexico-tenant", globals_.tenant);
  if (globals_.timeout_s > 0) timeout = absl::Seconds(globals_.timeout_s);
  if (timeout > absl::ZeroDuration()) rpc::SetTimeout(*context, timeout);
  return context;
}

absl::Status Client::Convert(const grpc::Status& status) { return rpc::FromGrpc(status); }

}  // namespace lexico::cli

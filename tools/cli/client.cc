#include "tools/cli/client.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "absl/strings/str_replace.h"
#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"

namespace lexico::cli {
namespace {

// What servers advise, in words of their RPCs, as commands. The phrases hold a space, which no id
// in a message does.
constexpr auto kCommandsOfRemedies =
    std::to_array<std::pair<absl::string_view, absl::string_view>>({
        {"ListSessions names", "`lexico session list` names"},
        {"DeleteSession deletes", "`lexico session delete` deletes"},
        {"MigrateSession moves", "`lexico session migrate` moves"},
        {"with AppendText", "with `lexico session append`"},
        {"through AppendText", "through `lexico session append`"},
    });

}  // namespace

absl::StatusOr<Client> Client::Connect(const Globals& globals) {
  LEXICO_ASSIGN_OR_RETURN(const auto channel, rpc::MakeChannel(globals.server, globals.tls));
  Client client;
  client.globals_ = globals;
  client.channel_ = channel;
  client.inference_ = v1::Inference::NewStub(channel);
  client.admin_ = v1::Admin::NewStub(channel);
  return client;
}

std::unique_ptr<grpc::ClientContext> Client::NewContext(absl::Duration timeout) const {
  auto context = std::make_unique<grpc::ClientContext>();
  if (!globals_.tenant.empty()) context->AddMetadata("lexico-tenant", globals_.tenant);
  timeout = Effective(timeout);
  if (timeout > absl::ZeroDuration()) rpc::SetTimeout(*context, timeout);
  return context;
}

absl::Duration Client::Effective(absl::Duration timeout) const {
  return globals_.timeout_s > 0 ? absl::Seconds(globals_.timeout_s) : timeout;
}

bool Client::IsUnconnected() const {
  const grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/false);
  return state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_CONNECTING;
}

absl::Status Client::Convert(const grpc::Status& status, absl::Duration timeout) const {
  const absl::Status received = rpc::FromGrpc(status);
  if (received.ok()) return received;
  timeout = Effective(timeout);
  std::string message = absl::StrReplaceAll(received.message(), kCommandsOfRemedies);
  if (absl::IsDeadlineExceeded(received) && timeout > absl::ZeroDuration()) {
    message = fmt::format("{} {} within {}; give it longer with --timeout",
                          IsUnconnected() ? "no connection to" : "no answer of", globals_.server,
                          absl::FormatDuration(timeout));
  } else if (absl::IsUnavailable(received) && rpc::ReasonOf(received).empty() && IsUnconnected()) {
    message += fmt::format(
        "; is a server running at {}? start one with `lexico local` or name it with --server",
        globals_.server);
  }
  absl::Status result(received.code(), message);
  received.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  return result;
}

}  // namespace lexico::cli

#include "proto/rpc/channel.h"

#include <fmt/format.h>

#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "proto/rpc/health.h"
#include "proto/rpc/tls.h"

namespace lexico::rpc {

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const TlsOptions& tls) {
  LEXICO_RETURN_IF_ERROR(base::CheckAddress("address", address, base::AddressUse::kConnect));
  LEXICO_ASSIGN_OR_RETURN(auto credentials, ClientCredentials(tls));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(base::kMessageBytesMax));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  // A restarted peer is found again within a second, not after gRPC's default of up to two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // In spite of its name the time that one attempt may take: a busy machine or a far one needs more
  // than the backoff.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

absl::Status WaitUntilServing(const std::shared_ptr<grpc::Channel>& channel,
                              const std::string& address, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  absl::Status last = absl::UnavailableError("not asked yet");
  while (absl::Now() < deadline) {
    last = CheckHealth(channel, absl::Seconds(1));
    if (last.ok()) return last;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return absl::DeadlineExceededError(fmt::format("{} is not serving after {}: {}", address,
                                                 absl::FormatDuration(timeout), last.ToString()));
}

void SetTimeout(grpc::ClientContext& context, absl::Duration timeout) {
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
}

}  // namespace lexico::rpc

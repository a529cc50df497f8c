// lexico-coordinator. Prints "ready grpc=HOST:PORT metrics=HOST:PORT" on stdout when it serves, and
// ends in order at SIGTERM or SIGINT. Exit codes: 0 in order, 1 it could not start, 2 wrong flags.
#include <fmt/format.h>

#include <cstdio>

#include "coordinator/options.h"
#include "coordinator/state/local_state.h"
#include "proto/base/log.h"
#include "proto/base/status.h"

namespace lexico::coord {
namespace {

// "127.0.0.1:0" and 40123 make "127.0.0.1:40123".
std::string WithPort(const std::string& address, int port) {
  return fmt::format("{}:{}", address.substr(0, address.rfind(':')), port);
}

absl::Status Serve(const CoordinatorOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const auto state, LocalState::Open({.folder = options.data_dir}));
  if (options.data_dir.empty()) {
    spdlog::warn("no --data_dir: a restart of this process forgets its sessions");
  }
  base::Metrics metrics("coordinator");
  std::string metrics_at = "none";
  if (!options.metrics_address.empty()) {
    LEXICO_ASSIGN_OR_RETURN(const int port, metrics.Serve(options.metrics_address));
    metrics_at = WithPort(options.metrics_address, port);
  }
  LEXICO_ASSIGN_OR_RETURN(const auto server, CoordinatorServer::Start({.address = options.address,
                                                                       .cluster = options.cluster,
                                                                       .tls = options.tls,
                                                                       .store = options.store},
                                                                      *state, metrics));
  fmt::print("ready grpc={} metrics={}\n", WithPort(options.address, server->port()), metrics_at);
  std::fflush(stdout);
  const int signal = rpc::WaitForShutdownSignal();
  spdlog::info("signal {}: not serving any more, running calls have {}", signal,
               absl::FormatDuration(options.drain));
  server->Shutdown(options.drain);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  rpc::BlockShutdownSignals();
  const auto options = ParseCoordinatorOptions(argc, argv);
  if (absl::IsCancelled(options.status())) {
    fmt::print("{}", std::string(options.status().message()));
    return 0;
  }
  if (!options.ok()) {
    fmt::print(stderr, "lexico-coordinator: {}\n", std::string(options.status().message()));
    return 2;
  }
  base::InitLogging("coordinator", options->log_level);
  const absl::Status status = Serve(*options);
  if (status.ok()) return 0;
  fmt::print(stderr, "lexico-coordinator: {}\n", status.ToString());
  return 1;
}

}  // namespace
}  // namespace lexico::coord

int main(int argc, char** argv) { return lexico::coord::Main(argc, argv); }

// lexico-cache-store: see --help.
#include <fmt/format.h>

#include <cstdio>

#include "cache_store/options.h"
#include "proto/base/log.h"

namespace {

// Running calls are short: a batch of pages, a manifest.
constexpr absl::Duration kShutdownGrace = absl::Seconds(5);

int Fail(const absl::Status& status, int exit_code) {
  fmt::print(stderr, "lexico-cache-store: {}\n", std::string(status.message()));
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  using lexico::store::StoreServer;
  const auto options = lexico::store::ParseStoreOptions(argc, argv);
  if (absl::IsCancelled(options.status())) {
    fmt::print("{}", std::string(options.status().message()));
    return 0;
  }
  if (!options.ok()) return Fail(options.status(), 2);
  lexico::base::InitLogging("store", options->log_level);
  lexico::rpc::BlockShutdownSignals();

  auto server = StoreServer::Start(options->server);
  if (!server.ok()) return Fail(server.status(), 1);
  const std::string& address = options->server.address;
  fmt::print("ready grpc={}:{} bulk={} metrics={}\n", address.substr(0, address.rfind(':')),
             (*server)->port(), (*server)->bulk_port(), (*server)->metrics_port());
  std::fflush(stdout);

  const int signal_number = lexico::rpc::WaitForShutdownSignal();
  spdlog::info("signal {}: shutting down", signal_number);
  (*server)->Shutdown(kShutdownGrace);
  return 0;
}

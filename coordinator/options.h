// The command line of lexico-coordinator.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/service/server.h"

namespace lexico::coord {

struct CoordinatorOptions {
  // -- Behaviour --------------------------------------------------------------------------------
  std::string address = "127.0.0.1:50051";
  std::string metrics_address = "127.0.0.1:9090";  // empty: no metrics server
  // Folder of the journal. Empty: in memory, and a restarted coordinator knows no session.
  std::string data_dir;
  // Cache store, host:port. Empty: it is told of deletions through the workers, and what it alone
  // has cannot be listed.
  std::string store;
  std::string log_level = "info";
  // Within it running calls end by themselves at SIGTERM. Below Kubernetes' 30 s default of
  // terminationGracePeriodSeconds.
  absl::Duration drain = absl::Seconds(20);
  rpc::TlsOptions tls;
  // -- Bounds (coordinator/admission/admission.h) and the lease -----------------------------------
  ClusterOptions cluster;
};

// From argv. Errors as base::ParseCommandLine: Cancelled is help text for stdout, InvalidArgument
// names the flag, its value and its range.
absl::StatusOr<CoordinatorOptions> ParseCoordinatorOptions(int argc, const char* const* argv);

}  // namespace lexico::coord

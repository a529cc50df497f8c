// Many simulated users against a running service.
#pragma once

#include <atomic>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/bench_serving/options.h"
#include "tools/bench_serving/tally.h"
#include "tools/cli/client.h"

namespace lexico::bench_serving {

struct ProfileResult {
  std::string profile;
  Tally tally;
  double wall_s = 0;  // from the first arrival to the end of the last visit
  // Not OK when the service went away meanwhile: visits after that were not begun.
  absl::Status status;
};

// Every visit of one profile: options.sessions of them, as they arrive or options.users at once.
// Before it one session is created and deleted, so that what every visit would fail of (no service,
// no worker, no such profile or model, a document that is not UTF-8) fails once and is the status
// returned. `stop` ends the load early.
// Blocks; starts and ends its own threads. Thread-compatible.
absl::StatusOr<ProfileResult> LoadProfile(const cli::Client& client, const Options& options,
                                          const std::string& profile,
                                          const std::atomic<bool>& stop);

}  // namespace lexico::bench_serving

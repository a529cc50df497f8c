// One simulated user.
#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "tools/bench_serving/tally.h"
#include "tools/cli/client.h"

namespace lexico::bench_serving {

using SteadyTime = std::chrono::steady_clock::time_point;

struct VisitPlan {
  std::string session_id;  // of no other session
  std::string model;
  std::string profile;
  std::string document;  // empty: none is appended
  std::vector<std::string> questions;
  int n_new = 64;
  bool ignore_end = false;
  int retries_max = 0;  // of a call that was refused, after the time that the service names
};

struct VisitOutcome {
  Tally tally;
  // OK for a visit that was done or interrupted, else what ended it.
  absl::Status status;
};

// Creates a session, appends, asks, looks at the memory and deletes the session whatever happened
// before. Once `stop` is true it waits for nothing more and ends an answer that is under way.
// Thread safety: any number at once on one client.
VisitOutcome MakeVisit(const cli::Client& client, const VisitPlan& plan, SteadyTime arrival,
                       const std::atomic<bool>& stop);

}  // namespace lexico::bench_serving

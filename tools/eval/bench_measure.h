// What lexico-bench-engine measures of one engine.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/engine.h"

namespace lexico::eval {

// One profile, one length, one number of sessions that decode together.
struct BenchRow {
  std::string profile;
  int n_tokens = 0;
  int n_sessions = 0;
  int n_new = 0;
  worker::CallResult append;  // the first session's; the others are copies of it
  // While all sessions decode: from the last one's first token to the first one's last.
  double steps = 0;
  double seconds = 0;
  worker::CallTiming decode;    // of the first session's Generate
  worker::SessionInfo session;  // the first, at the end

  double step_seconds() const { return seconds / steps; }
  double tokens_per_second() const { return steps * n_sessions / seconds; }
};

struct BenchOptions {
  std::string profile;
  int n_tokens = 0;
  // Ascending; 0 stands for as many as the engine's memory takes and comes last.
  std::vector<int> n_sessions;
  int n_new = 0;  // tokens that each session decodes
};

// One Append of random tokens to an empty session, copies of that session through an export (each
// with pages of its own), and then, for every number of sessions, one greedy Generate in each of
// them at once. ResourceExhausted where the sessions do not fit.
absl::StatusOr<std::vector<BenchRow>> MeasureEngine(worker::Engine& engine,
                                                    const BenchOptions& options);

}  // namespace lexico::eval

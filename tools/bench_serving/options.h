// The command line of lexico-bench-serving.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tools/cli/command.h"

namespace lexico::bench_serving {

// Most visits at once. Each has a thread here, and its call one in the coordinator.
inline constexpr int kUsersMax = 1024;

struct Options {
  cli::Globals globals{.timeout_s = 600};  // whose server is --address
  std::string model;                       // empty: the only one served
  std::vector<std::string> profiles = {"dense", "paper-s16"};
  // Exactly one is above 0: arrivals per second (open loop), or users at once (closed loop).
  double rate = 0;
  int users = 0;
  int sessions = 0;  // visits of each profile; ParseOptions replaces 0 by a default
  int warmup = 0;    // visits of each profile before those that are counted
  int document_tokens = 1024;
  std::string document_path;  // instead of random words
  int questions = 4;
  int n_new = 64;  // at most, of an answer
  bool ignore_end = false;
  int retries_max = 100;  // of one call, in a closed loop
  uint64_t seed = 1;

  bool is_open() const { return rate > 0; }
};

// OK, or as base::ParseCommandLine: Cancelled with the text of --help, InvalidArgument with the
// flag, the value and what is right.
absl::Status ParseOptions(int argc, const char* const* argv, Options* options);

}  // namespace lexico::bench_serving

// What was seen of one visit, or of many: a visit is one simulated user, from the creation of a
// session to its deletion.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "lexico/v1/common.pb.h"

namespace lexico::bench_serving {

// Seconds on the client's clock, of calls that succeeded; for a call that was refused and repeated,
// of the attempt that was taken.
struct Samples {
  std::vector<double> append;       // AppendText, all of it
  std::vector<double> first_token;  // from the call of Generate to its first token
  std::vector<double> inter_token;  // between two tokens of an answer
  std::vector<double> answer;       // Generate, all of it
  std::vector<double> visit;  // from the arrival to the last answer, waits and repeats included
};

struct Reason {
  int64_t n = 0;
  std::string example;  // the first message
};

struct Tally {
  Samples samples;
  int64_t n_visits = 0;  // begun; each is one of the next four
  int64_t n_done = 0;
  int64_t n_refused = 0;      // ended by a refusal
  int64_t n_failed = 0;       // ended by an error
  int64_t n_interrupted = 0;  // ended by the user of this program
  int64_t n_prompt_tokens = 0;
  int64_t n_generated_tokens = 0;
  int64_t n_retries = 0;
  double retry_wait_s = 0;
  // Every refused attempt and every error, by the reason word of the server, else by the code.
  std::map<std::string, Reason> refusals;
  std::map<std::string, Reason> errors;
  // Of the sessions that were asked for their memory, after their last answer.
  int64_t n_memory = 0;
  uint64_t held_bytes = 0;
  uint64_t fp16_bytes = 0;
  std::vector<std::string> left;  // sessions whose deletion failed

  void Count(std::map<std::string, Reason>* reasons, const absl::Status& status);
  void AddMemory(const v1::MemoryUse& memory);
  void Add(const Tally& other);
};

// Whether the service says that it has no room now (docs/errors.md): RESOURCE_EXHAUSTED, or no
// worker.
bool IsRefusal(const absl::Status& status);

}  // namespace lexico::bench_serving

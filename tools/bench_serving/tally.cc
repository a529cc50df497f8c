#include "tools/bench_serving/tally.h"

#include "absl/strings/ascii.h"
#include "proto/rpc/status_map.h"

namespace lexico::bench_serving {
namespace {

void Extend(std::vector<double>* values, const std::vector<double>& more) {
  values->insert(values->end(), more.begin(), more.end());
}

void Merge(std::map<std::string, Reason>* reasons, const std::map<std::string, Reason>& more) {
  for (const auto& [word, reason] : more) {
    Reason& known = (*reasons)[word];
    if (known.n == 0) known.example = reason.example;
    known.n += reason.n;
  }
}

}  // namespace

void Tally::Count(std::map<std::string, Reason>* reasons, const absl::Status& status) {
  std::string word = rpc::ReasonOf(status);
  if (word.empty()) word = absl::AsciiStrToLower(absl::StatusCodeToString(status.code()));
  Merge(reasons, {{word, {.n = 1, .example = std::string(status.message())}}});
}

void Tally::AddMemory(const v1::MemoryUse& memory) {
  ++n_memory;
  held_bytes += memory.code_bytes() + memory.window_bytes() + memory.bookkeeping_bytes();
  fp16_bytes += memory.fp16_equivalent_bytes();
}

void Tally::Add(const Tally& other) {
  Extend(&samples.append, other.samples.append);
  Extend(&samples.first_token, other.samples.first_token);
  Extend(&samples.inter_token, other.samples.inter_token);
  Extend(&samples.answer, other.samples.answer);
  Extend(&samples.visit, other.samples.visit);
  n_visits += other.n_visits;
  n_done += other.n_done;
  n_refused += other.n_refused;
  n_failed += other.n_failed;
  n_interrupted += other.n_interrupted;
  n_prompt_tokens += other.n_prompt_tokens;
  n_generated_tokens += other.n_generated_tokens;
  n_retries += other.n_retries;
  retry_wait_s += other.retry_wait_s;
  Merge(&refusals, other.refusals);
  Merge(&errors, other.errors);
  n_memory += other.n_memory;
  held_bytes += other.held_bytes;
  fp16_bytes += other.fp16_bytes;
  left.insert(left.end(), other.left.begin(), other.left.end());
}

bool IsRefusal(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || rpc::ReasonOf(status) == "no_worker";
}

}  // namespace lexico::bench_serving

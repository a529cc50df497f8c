#include "cache_store/tiers/scrubber.h"

#include <algorithm>

#include "proto/base/log.h"

namespace lexico::store {
namespace {

// A step is what is read in about a quarter of a second, so that the rate is even.
constexpr int kStepsPerSecond = 4;
constexpr absl::Duration kWaitAfterError = absl::Minutes(1);

}  // namespace

Scrubber::Scrubber(TieredStore* store, const ScrubberOptions& options)
    : store_(store), options_(options), thread_([this] { Run(); }) {}

Scrubber::~Scrubber() {
  stop_.Notify();
  thread_.join();
}

void Scrubber::Run() {
  ScrubCursor cursor;
  absl::Time pass_begin = absl::Now();
  const uint64_t step_bytes = std::max<uint64_t>(1, options_.bytes_per_s / kStepsPerSecond);
  absl::Duration wait = absl::ZeroDuration();
  while (!stop_.WaitForNotificationWithTimeout(wait)) {
    const auto step = store_->Scrub(&cursor, step_bytes);
    if (!step.ok()) {
      spdlog::warn("scrub: {}", std::string(step.status().message()));
      wait = kWaitAfterError;
      continue;
    }
    wait =
        absl::Seconds(static_cast<double>(step->bytes) / static_cast<double>(options_.bytes_per_s));
    if (!step->pass_ended) continue;
    const absl::Time next = pass_begin + options_.pass_interval;
    wait = std::max(wait, next - absl::Now());
    pass_begin = std::max(next, absl::Now());
  }
}

}  // namespace lexico::store

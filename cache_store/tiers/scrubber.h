// Reads every page on the disk of a store again and again, slowly, so that damage is found while
// memory still has the page, or the session's owner its text.
#pragma once

#include <cstdint>
#include <thread>

#include "absl/synchronization/notification.h"
#include "cache_store/tiers/tiered_store.h"

namespace lexico::store {

struct ScrubberOptions {
  uint64_t bytes_per_s = 4u << 20;  // not 0
  // From the begin of a pass to the begin of the next, where the rate would allow more.
  absl::Duration pass_interval = absl::Hours(1);
};

class Scrubber {
 public:
  // Begins. `store` must outlive it and have a disk.
  Scrubber(TieredStore* store, const ScrubberOptions& options);
  // Waits for the page that is being read.
  ~Scrubber();
  Scrubber(const Scrubber&) = delete;
  Scrubber& operator=(const Scrubber&) = delete;

 private:
  void Run();

  TieredStore* const store_;
  const ScrubberOptions options_;
  absl::Notification stop_;
  std::thread thread_;
};

}  // namespace lexico::store

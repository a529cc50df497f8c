// Whose pages become smaller when memory is short. A function: no clock, no threads, no pool.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "absl/time/time.h"

namespace lexico::worker {

// A session that may be demoted: its owner allowed it, and it has not reached its least profile.
struct DemotionCandidate {
  bool is_idle = true;  // no call runs or waits
  absl::Time last_use;
  // What the pool would get back, copies of shared pages deducted.
  int64_t freed_bytes = 0;
};

// The idle one that was used longest ago, the first of equals; a busy one only where no idle one
// gives anything back. nullopt: nobody does.
std::optional<size_t> ChooseDemotion(std::span<const DemotionCandidate> candidates);

}  // namespace lexico::worker

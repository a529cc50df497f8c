#include "worker/engine/demotion_policy.h"

#include <tuple>

namespace lexico::worker {

std::optional<size_t> ChooseDemotion(std::span<const DemotionCandidate> candidates) {
  const auto rank = [&](size_t i) {
    return std::make_tuple(!candidates[i].is_idle, candidates[i].last_use);
  };
  std::optional<size_t> best;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].freed_bytes <= 0) continue;
    if (!best.has_value() || rank(i) < rank(*best)) best = i;
  }
  return best;
}

}  // namespace lexico::worker

#include "worker/engine/demotion_policy.h"

#include <gtest/gtest.h>

#include <vector>

namespace lexico::worker {
namespace {

absl::Time At(int64_t second) { return absl::FromUnixSeconds(second); }

TEST(DemotionPolicyTest, NobodyFromNobody) {
  EXPECT_EQ(ChooseDemotion({}), std::nullopt);
  const std::vector<DemotionCandidate> none = {{.last_use = At(1)}, {.last_use = At(2)}};
  EXPECT_EQ(ChooseDemotion(none), std::nullopt);
}

TEST(DemotionPolicyTest, TheIdleOneThatWasUsedLongestAgo) {
  const std::vector<DemotionCandidate> candidates = {
      {.last_use = At(5), .freed_bytes = 10},
      {.last_use = At(3), .freed_bytes = 1},
      {.last_use = At(3), .freed_bytes = 100},
      {.is_idle = false, .last_use = At(1), .freed_bytes = 1000},
      {.last_use = At(2), .freed_bytes = 0}};
  EXPECT_EQ(ChooseDemotion(candidates), 1u);
}

TEST(DemotionPolicyTest, ABusyOneOnlyWhereNoIdleOneGivesAnything) {
  const std::vector<DemotionCandidate> candidates = {
      {.last_use = At(1), .freed_bytes = 0},
      {.is_idle = false, .last_use = At(9), .freed_bytes = 5},
      {.is_idle = false, .last_use = At(8), .freed_bytes = 5}};
  EXPECT_EQ(ChooseDemotion(candidates), 2u);
}

}  // namespace
}  // namespace lexico::worker

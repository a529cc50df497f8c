#include "cache_store/tiers/eviction_order.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);
absl::Time At(int seconds) { return kStart + absl::Seconds(seconds); }

TEST(EvictionOrderTest, LeastRecentlyUsedUnclaimedPageGoesFirst) {
  EvictionOrder order;
  order.Insert(KeyOf(1), 10, At(0));
  order.Insert(KeyOf(2), 10, At(1));
  order.Insert(KeyOf(3), 10, At(2));
  EXPECT_TRUE(order.Touch(KeyOf(1), At(3)));
  EXPECT_EQ(order.Victim(At(200), true), KeyOf(2));
  order.Remove(KeyOf(2));
  EXPECT_EQ(order.Victim(At(200), true), KeyOf(3));
  order.Remove(KeyOf(3));
  EXPECT_EQ(order.Victim(At(200), true), KeyOf(1));
  EXPECT_EQ(order.bytes(), 10u);
}

TEST(EvictionOrderTest, LeasedPagesStayInTheLastTierUntilTheLeaseEnds) {
  EvictionOrder order;
  order.Insert(KeyOf(1), 10, At(0));
  EXPECT_EQ(order.Victim(At(59), true), std::nullopt);
  EXPECT_EQ(order.Victim(At(60), true), KeyOf(1));
  EXPECT_EQ(order.Victim(At(59), false), KeyOf(1));
}

TEST(EvictionOrderTest, ALateReadingOfTheClockCountsAsTheNewestSeen) {
  EvictionOrder order;
  order.Insert(KeyOf(1), 10, At(0));
  order.Insert(KeyOf(2), 10, At(100));
  EXPECT_EQ(order.Victim(At(30), true), KeyOf(1));
  EXPECT_TRUE(order.Touch(KeyOf(1), At(30)));
  EXPECT_EQ(order.Victim(At(159), true), std::nullopt);
  EXPECT_EQ(order.Victim(At(160), true), KeyOf(2));
}

TEST(EvictionOrderTest, ClaimedPagesNeverLeaveTheLastTier) {
  EvictionOrder order;
  order.Insert(KeyOf(1), 10, At(0));
  order.SetClaimed(KeyOf(1), true, At(0));
  EXPECT_EQ(order.Victim(At(1000000), true), std::nullopt);
  EXPECT_EQ(order.claimed_bytes(), 10u);
  EXPECT_EQ(order.Victim(At(1000000), false), KeyOf(1));
  order.SetClaimed(KeyOf(1), false, At(5));
  EXPECT_EQ(order.Victim(At(1000000), true), KeyOf(1));
  EXPECT_EQ(order.claimed_bytes(), 0u);
}

TEST(EvictionOrderTest, AboveAnotherTierPagesWithEndedLeaseGoBeforeOlderClaimedOnes) {
  EvictionOrder order;
  order.Insert(KeyOf(1), 10, At(0));
  order.SetClaimed(KeyOf(1), true, At(0));
  order.Insert(KeyOf(2), 10, At(10));
  EXPECT_EQ(order.Victim(At(100), false), KeyOf(2));
  // Under lease, age decides.
  EXPECT_EQ(order.Victim(At(20), false), KeyOf(1));
}

TEST(EvictionOrderTest, UnknownPagesAreSaidToBeUnknown) {
  EvictionOrder order;
  EXPECT_FALSE(order.Touch(KeyOf(1), At(0)));
  EXPECT_FALSE(order.SetClaimed(KeyOf(1), true, At(0)));
  EXPECT_EQ(order.Remove(KeyOf(1)), std::nullopt);
  EXPECT_EQ(order.Victim(At(1000), false), std::nullopt);
}

// Random operations against a plain map whose victim is found by looking at every page.
TEST(EvictionOrderTest, AgreesWithAModel) {
  struct Page {
    bool claimed;
    int last_use;
  };
  for (unsigned seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    EvictionOrder order;
    std::map<PageKey, Page> model;
    for (int now = 0; now < 600; ++now) {
      const PageKey key = KeyOf(random() % 30);
      const bool known = model.contains(key);
      switch (random() % 4) {
        case 0:
          if (known) break;
          order.Insert(key, 7, At(now));
          model[key] = {false, now};
          break;
        case 1:
          EXPECT_EQ(order.Touch(key, At(now)), known);
          if (known) model[key].last_use = now;
          break;
        case 2: {
          const bool claimed = random() % 2 == 0;
          EXPECT_EQ(order.SetClaimed(key, claimed, At(now)), known);
          if (known) model[key] = {claimed, now};
          break;
        }
        case 3:
          EXPECT_EQ(order.Remove(key).has_value(), known);
          model.erase(key);
          break;
      }
      for (const bool last_tier : {false, true}) {
        std::optional<PageKey> ended, oldest;
        for (const auto& [k, page] : model) {
          if (!oldest || page.last_use < model[*oldest].last_use) oldest = k;
          if (page.claimed || page.last_use + 60 > now) continue;
          if (!ended || page.last_use < model[*ended].last_use) ended = k;
        }
        EXPECT_EQ(order.Victim(At(now), last_tier), ended || last_tier ? ended : oldest);
      }
      ASSERT_EQ(order.bytes(), 7 * model.size());
    }
  }
}

}  // namespace
}  // namespace lexico::store

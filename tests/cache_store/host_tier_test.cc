#include "cache_store/tiers/host_tier.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);
absl::Time At(int seconds) { return kStart + absl::Seconds(seconds); }

// What one test page takes.
constexpr uint64_t kPageBytes = 128 + 120 + HostTier::kEntryBytes;

absl::Status Put(HostTier& tier, std::vector<uint64_t> numbers, int seconds) {
  std::vector<NamedPage> pages;
  for (const uint64_t n : numbers) pages.push_back(MakeNamedPage(n));
  return tier.Put(pages, At(seconds));
}

TEST(HostTierTest, ReturnsTheBytesThatWerePut) {
  HostTier tier(10 * kPageBytes, true);
  ASSERT_TRUE(Put(tier, {1}, 0).ok());
  const auto page = tier.Get(KeyOf(1), At(0));
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_TRUE(std::ranges::equal((*page)->bytes(), MakeNamedPage(1).page->bytes()));
  EXPECT_TRUE(absl::IsNotFound(tier.Get(KeyOf(2), At(0)).status()));
}

TEST(HostTierTest, APageReadStaysReadableAfterItWasEvicted) {
  HostTier tier(kPageBytes, false);
  ASSERT_TRUE(Put(tier, {1}, 0).ok());
  const auto page = tier.Get(KeyOf(1), At(0));
  ASSERT_TRUE(Put(tier, {2}, 1).ok());
  EXPECT_TRUE(absl::IsNotFound(tier.Get(KeyOf(1), At(1)).status()));
  EXPECT_EQ((*page)->size(), 248u);
  EXPECT_EQ(tier.usage().n_evictions, 1u);
}

TEST(HostTierTest, NeverExceedsItsLimit) {
  HostTier tier(5 * kPageBytes + 1, false);
  for (uint64_t n = 0; n < 50; ++n) {
    ASSERT_TRUE(Put(tier, {n}, static_cast<int>(n)).ok());
    EXPECT_LE(tier.usage().bytes, tier.usage().bytes_max);
  }
  EXPECT_EQ(tier.usage().n_pages, 5u);
}

TEST(HostTierTest, AFullLastTierRefusesWithNumbersAndAddsNothing) {
  HostTier tier(3 * kPageBytes, true);
  ASSERT_TRUE(Put(tier, {1, 2}, 0).ok());
  const absl::Status status = Put(tier, {3, 4}, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_NE(status.message().find(std::to_string(kPageBytes)), std::string::npos) << status;
  EXPECT_NE(status.message().find(std::to_string(3 * kPageBytes)), std::string::npos) << status;
  EXPECT_EQ(tier.usage().n_pages, 2u);
  EXPECT_TRUE(tier.Touch(KeyOf(1), At(1)));
  EXPECT_FALSE(tier.Touch(KeyOf(3), At(1)));
}

TEST(HostTierTest, ALastTierEvictsWhatNobodyClaimsOnceItsLeaseEnded) {
  HostTier tier(2 * kPageBytes, true);
  ASSERT_TRUE(Put(tier, {1, 2}, 0).ok());
  tier.SetClaimed(KeyOf(1), true, At(0));
  ASSERT_TRUE(Put(tier, {3}, 100).ok());
  EXPECT_TRUE(tier.Touch(KeyOf(1), At(100)));
  EXPECT_FALSE(tier.Touch(KeyOf(2), At(100)));
}

}  // namespace
}  // namespace lexico::store

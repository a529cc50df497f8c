#include "cache_store/tiers/claims.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

Claims::Session SessionWith(std::vector<uint64_t> pages) {
  Claims::Session session{.epoch = 1};
  for (const uint64_t n : pages) session.keys.push_back(KeyOf(n));
  return session;
}

TEST(ClaimsTest, AGrowingSessionClaimsOnlyWhatItGrewBy) {
  Claims claims;
  EXPECT_THAT(claims.Set("a", SessionWith({1, 2})).claimed, ElementsAre(KeyOf(1), KeyOf(2)));
  const ClaimChange grown = claims.Set("a", SessionWith({1, 2, 3}));
  EXPECT_THAT(grown.claimed, ElementsAre(KeyOf(3)));
  EXPECT_THAT(grown.released, IsEmpty());
}

TEST(ClaimsTest, SharedPagesAreReleasedByTheLastSession) {
  Claims claims;
  claims.Set("a", SessionWith({1, 2}));
  EXPECT_THAT(claims.Set("b", SessionWith({1, 3})).claimed, ElementsAre(KeyOf(3)));
  EXPECT_THAT(claims.Remove("a").released, ElementsAre(KeyOf(2)));
  EXPECT_TRUE(claims.IsClaimed(KeyOf(1)));
  EXPECT_THAT(claims.Remove("b").released, UnorderedElementsAre(KeyOf(1), KeyOf(3)));
  EXPECT_FALSE(claims.IsClaimed(KeyOf(1)));
}

TEST(ClaimsTest, APageThatOnlyMovedInTheListIsNeitherClaimedNorReleased) {
  Claims claims;
  claims.Set("a", SessionWith({1, 2}));
  const ClaimChange change = claims.Set("a", SessionWith({2, 1, 3}));
  EXPECT_THAT(change.claimed, ElementsAre(KeyOf(3)));
  EXPECT_THAT(change.released, IsEmpty());
}

TEST(ClaimsTest, APageNamedTwiceIsReleasedOnce) {
  Claims claims;
  claims.Set("a", SessionWith({1, 1}));
  EXPECT_THAT(claims.Set("a", SessionWith({1})).released, IsEmpty());
  EXPECT_THAT(claims.Remove("a").released, ElementsAre(KeyOf(1)));
  EXPECT_THAT(claims.Remove("a").released, IsEmpty());
}

}  // namespace
}  // namespace lexico::store

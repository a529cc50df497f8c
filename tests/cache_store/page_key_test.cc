#include "cache_store/format/page_key.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

ChainScope Scope() {
  return {.tenant = "a",
          .model = FingerprintOf("model"),
          .dictionary = FingerprintOf("dictionary"),
          .tokenizer = FingerprintOf("tokenizer"),
          .profile = "paper-s16",
          .page_tokens = 4,
          .window_tokens = 8,
          .seal_tokens = 4};
}

const std::vector<uint32_t> kTokens = {1, 2, 3, 4};
const std::vector<Segment> kOneSegment = {{0, SegmentKind::kPrefill}};

PageKey FirstKey(const ChainScope& scope, const std::vector<uint32_t>& tokens,
                 const std::vector<Segment>& segments) {
  return PageKeyOf(ChainExtend(ChainStart(scope), 0, tokens, segments), 0, PageKind::kCodes, 0);
}

TEST(PageKeyTest, EqualSessionsHaveEqualKeys) {
  EXPECT_EQ(FirstKey(Scope(), kTokens, kOneSegment), FirstKey(Scope(), kTokens, kOneSegment));
}

TEST(PageKeyTest, NeverChangesBetweenVersions) {
  // A stored page must be found again by a later build.
  EXPECT_EQ(FirstKey(Scope(), kTokens, kOneSegment).ToHex(), "32a496b85be07658acb85c207134cfb3");
}

TEST(PageKeyTest, EverythingThatBytesFollowFromChangesTheKey) {
  std::set<PageKey> keys = {FirstKey(Scope(), kTokens, kOneSegment)};
  const auto expect_new = [&](const PageKey& key, const char* what) {
    EXPECT_TRUE(keys.insert(key).second) << what;
  };
  ChainScope scope = Scope();
  scope.tenant = "b";
  expect_new(FirstKey(scope, kTokens, kOneSegment), "tenant");
  scope = Scope();
  scope.demotions = {{"paper-s32", 4, 8}};
  expect_new(FirstKey(scope, kTokens, kOneSegment), "demotion");
  scope.demotions[0].n_tokens = 9;
  expect_new(FirstKey(scope, kTokens, kOneSegment), "tokens at a demotion");
  scope.demotions[0].n_sealed_tokens = 8;
  expect_new(FirstKey(scope, kTokens, kOneSegment), "pages at a demotion");
  scope.demotions[0].from = "paper-s24";
  expect_new(FirstKey(scope, kTokens, kOneSegment), "profile before a demotion");
  scope.demotions.push_back(scope.demotions[0]);
  expect_new(FirstKey(scope, kTokens, kOneSegment), "two demotions");
  scope = Scope();
  scope.model = FingerprintOf("other");
  expect_new(FirstKey(scope, kTokens, kOneSegment), "model");
  scope = Scope();
  scope.dictionary = FingerprintOf("other");
  expect_new(FirstKey(scope, kTokens, kOneSegment), "dictionary");
  scope = Scope();
  scope.tokenizer = FingerprintOf("other");
  expect_new(FirstKey(scope, kTokens, kOneSegment), "tokenizer");
  scope = Scope();
  scope.profile = "paper-s8";
  expect_new(FirstKey(scope, kTokens, kOneSegment), "profile");
  scope = Scope();
  scope.window_tokens = 16;
  expect_new(FirstKey(scope, kTokens, kOneSegment), "window");
  scope = Scope();
  scope.seal_tokens = 8;
  expect_new(FirstKey(scope, kTokens, kOneSegment), "seal");
  expect_new(FirstKey(Scope(), {1, 2, 3, 5}, kOneSegment), "tokens");
  expect_new(FirstKey(Scope(), kTokens, {{0, SegmentKind::kDecode}}), "segment kind");
  expect_new(FirstKey(Scope(), kTokens, {{0, SegmentKind::kPrefill}, {2, SegmentKind::kPrefill}}),
             "segment boundary");
  const PageChain chain = ChainExtend(ChainStart(Scope()), 0, kTokens, kOneSegment);
  expect_new(PageKeyOf(chain, 1, PageKind::kCodes, 0), "layer");
  expect_new(PageKeyOf(chain, 0, PageKind::kDense, 0), "kind");
  expect_new(PageKeyOf(chain, 0, PageKind::kWindow, 1), "first token");
}

TEST(PageKeyTest, APageDependsOnEverythingBeforeItAndNothingBehindIt) {
  const std::vector<uint32_t> other = {9, 2, 3, 4};
  const auto second = [](const std::vector<uint32_t>& first, const std::vector<Segment>& segments) {
    const PageChain chain = ChainExtend(ChainStart(Scope()), 0, first, segments);
    return ChainExtend(chain, 4, kTokens, segments);
  };
  EXPECT_NE(second(kTokens, kOneSegment), second(other, kOneSegment));
  // A segment that starts behind the page is not part of its name.
  EXPECT_EQ(second(kTokens, kOneSegment),
            second(kTokens, {{0, SegmentKind::kPrefill}, {8, SegmentKind::kDecode}}));
  EXPECT_NE(second(kTokens, kOneSegment),
            second(kTokens, {{0, SegmentKind::kPrefill}, {7, SegmentKind::kDecode}}));
}

}  // namespace
}  // namespace lexico::store

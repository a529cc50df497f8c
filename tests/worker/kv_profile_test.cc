#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "worker/kv/profile.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::StatusIs;

TEST(ProfileTest, EveryKnownNameIsParsed) {
  EXPECT_TRUE(ParseProfile("dense")->is_dense());
  for (const int sparsity : {1, 8, 16, 64}) {
    const auto profile = ParseProfile("paper-s" + std::to_string(sparsity));
    ASSERT_TRUE(profile.ok()) << sparsity;
    EXPECT_EQ(profile->sparsity_k, sparsity);
    EXPECT_EQ(profile->sparsity_v, sparsity);
    EXPECT_FALSE(profile->is_dense());
  }
}

TEST(ProfileTest, EmptyNameIsTheDefault) {
  EXPECT_EQ(ParseProfile("")->name, kDefaultProfile);
  EXPECT_EQ(ParseProfile("")->sparsity_k, 16);
}

TEST(ProfileTest, UnknownNamesAreNotFoundAndTheNearestIsNamed) {
  EXPECT_THAT(ParseProfile("papr-s16"), StatusIs(StatusCode::kNotFound, "nearest is paper-s16"));
  EXPECT_THAT(ParseProfile("Dense"), StatusIs(StatusCode::kNotFound, "nearest is dense"));
  EXPECT_THAT(ParseProfile("zzzzzzzzzzzzzzzz"),
              StatusIs(StatusCode::kNotFound, "known are dense and paper-s1 to paper-s64"));
}

TEST(ProfileTest, OnlyOneSpellingOfANumberIsTaken) {
  for (const char* name : {"paper-s0", "paper-s65", "paper-s016", "paper-s+8", "paper-s",
                           "paper-s8x", "paper-s99999999999999"}) {
    EXPECT_THAT(ParseProfile(name), StatusIs(StatusCode::kNotFound, name));
  }
}

}  // namespace
}  // namespace lexico::worker

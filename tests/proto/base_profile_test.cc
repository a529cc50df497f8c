#include <gtest/gtest.h>

#include "proto/base/profile.h"
#include "tests/support/status_matchers.h"

namespace lexico::base {
namespace {

using absl::StatusCode;
using tests::IsOk;
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

TEST(ProfileTest, SparsityIsBoundedByTheModel) {
  EXPECT_EQ(SparsityMax(256, 4096), 64);
  EXPECT_EQ(SparsityMax(32, 4096), 32);
  EXPECT_EQ(SparsityMax(32, 0), 0);
  const auto check = [](std::string_view name, int sparsity_max) {
    return CheckProfile(*ParseProfile(name), sparsity_max);
  };
  EXPECT_THAT(check("paper-s32", 32), IsOk());
  EXPECT_THAT(check("dense", 0), IsOk());
  EXPECT_THAT(check("paper-s33", 32), StatusIs(StatusCode::kFailedPrecondition,
                                               "allowed are dense and paper-s1 to paper-s32"));
  EXPECT_THAT(check("paper-s1", 0), StatusIs(StatusCode::kFailedPrecondition, "use dense"));
}

TEST(ProfileTest, ListedProfilesFitAndBeginWithTheDefault) {
  EXPECT_EQ(ListedProfiles(0), std::vector<std::string>{"dense"});
  EXPECT_EQ(ListedProfiles(8),
            (std::vector<std::string>{"dense", "paper-s2", "paper-s4", "paper-s8"}));
  const std::vector<std::string> all = ListedProfiles(64);
  EXPECT_EQ(all.front(), kDefaultProfile);
  EXPECT_EQ(all.size(), 8u);
  for (const std::string& name : all) {
    EXPECT_THAT(CheckProfile(*ParseProfile(name), 64), IsOk()) << name;
  }
}

}  // namespace
}  // namespace lexico::base

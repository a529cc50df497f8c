#include <gtest/gtest.h>

#include "proto/base/profile.h"
#include "tests/support/status_matchers.h"

namespace lexico::base {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

constexpr CodingModel kModel{.head_dim = 128, .n_atoms = 4096};

TEST(ProfileTest, EveryNameOfThePaperIsParsed) {
  EXPECT_TRUE(ParseProfile("dense")->is_dense());
  for (const int sparsity : {1, 8, 16, 64}) {
    const auto profile = ParseProfile("paper-s" + std::to_string(sparsity));
    ASSERT_TRUE(profile.ok()) << sparsity;
    EXPECT_EQ(profile->k, (VectorCode{sparsity, {}}));
    EXPECT_EQ(profile->v, profile->k);
    EXPECT_TRUE(profile->is_paper());
    EXPECT_FALSE(profile->is_dense());
  }
}

TEST(ProfileTest, EveryMemberOfTheFamilyIsParsed) {
  struct Member {
    const char* name;
    VectorCode k;
    VectorCode v;
  };
  const VectorCode four{4, {4, 1, false}};
  const VectorCode two{2, {4, 2, true}};
  const VectorCode none{0, {8, 3, true}};
  const VectorCode unshrunk{16, {4, 0, true}};
  const VectorCode bytes{12, {8, 1, false}};
  const VectorCode paper{8, {}};
  for (const Member& member : {Member{"kv4r1", four, four},
                               {"kv2r2u", two, two},
                               {"k2r2u-v4r1", two, four},
                               {"kv0r3u", none, none},
                               {"kv16u", unshrunk, unshrunk},
                               {"kv12f8r1", bytes, bytes},
                               {"k0r3u-v16u", none, unshrunk},
                               {"k8f8-v4r1", paper, four},
                               {"k8f8-v8", paper, {8, {4, 0, false}}}}) {
    const auto profile = ParseProfile(member.name);
    ASSERT_THAT(profile, IsOk());
    EXPECT_EQ(profile->name, member.name);
    EXPECT_EQ(profile->k, member.k) << member.name;
    EXPECT_EQ(profile->v, member.v) << member.name;
    EXPECT_FALSE(profile->is_dense());
    EXPECT_FALSE(profile->is_paper());
  }
  EXPECT_FALSE(ParseProfile("kv0r3u")->has_atoms());
  EXPECT_TRUE(ParseProfile("k0r3u-v16u")->has_atoms());
}

TEST(ProfileTest, EmptyNameIsTheDefault) {
  EXPECT_EQ(ParseProfile("")->name, kDefaultProfile);
  EXPECT_EQ(ParseProfile("")->k.sparsity, 16);
}

TEST(ProfileTest, UnknownNamesAreNotFoundAndTheNearestIsNamed) {
  EXPECT_THAT(ParseProfile("papr-s16"), StatusIs(StatusCode::kNotFound, "nearest is paper-s16"));
  EXPECT_THAT(ParseProfile("Dense"), StatusIs(StatusCode::kNotFound, "nearest is dense"));
  EXPECT_THAT(ParseProfile("kv0 r3u"), StatusIs(StatusCode::kNotFound, "nearest is kv0r3u"));
  EXPECT_THAT(ParseProfile("zzzzzzzzzzzzzzzz"),
              StatusIs(StatusCode::kNotFound,
                       "known are dense and paper-s1 to paper-s64, and codes such as kv4r1"));
}

TEST(ProfileTest, OnlyOneSpellingIsTakenAndItIsNamed) {
  for (const char* name : {"paper-s0",
                           "paper-s65",
                           "paper-s016",
                           "paper-s+8",
                           "paper-s",
                           "paper-s8x",
                           "paper-s99999999999999",
                           "kv",
                           "k4",
                           "v4r1",
                           "k4r1-",
                           "kv0",
                           "kv0u",
                           "kv0f8r1",
                           "kv65",
                           "kv04",
                           "kv4r0",
                           "kv4r4",
                           "kv4r",
                           "kv4ur1",
                           "kv4r1f8",
                           "kv4r1x",
                           "k4r1-v0",
                           "k4r1-v4r1-v4r1",
                           "kv-4",
                           "kv4r01"}) {
    EXPECT_THAT(ParseProfile(name), StatusIs(StatusCode::kNotFound, name));
  }
  EXPECT_THAT(ParseProfile("k4r1-v4r1"), StatusIs(StatusCode::kNotFound, "code is kv4r1"));
  EXPECT_THAT(ParseProfile("kv16f8"), StatusIs(StatusCode::kNotFound, "code is paper-s16"));
}

TEST(ProfileTest, SparsityIsBoundedByTheModel) {
  EXPECT_EQ(SparsityMax({256, 4096}), 64);
  EXPECT_EQ(SparsityMax({32, 4096}), 32);
  EXPECT_EQ(SparsityMax({32, 0}), 0);
  const auto check = [](std::string_view name, const CodingModel& model) {
    return CheckProfile(*ParseProfile(name), model);
  };
  EXPECT_THAT(check("paper-s32", {32, 4096}), IsOk());
  EXPECT_THAT(check("dense", {32, 0}), IsOk());
  EXPECT_THAT(
      check("paper-s33", {32, 4096}),
      StatusIs(StatusCode::kFailedPrecondition, "allowed are dense and paper-s1 to paper-s32"));
  EXPECT_THAT(check("k4-v33", {32, 4096}),
              StatusIs(StatusCode::kFailedPrecondition, "takes 33 atoms a vector, the model at "));
  EXPECT_THAT(check("paper-s1", {32, 0}), StatusIs(StatusCode::kFailedPrecondition, "use dense"));
}

TEST(ProfileTest, WhatAMemberNeedsOfTheModelIsChecked) {
  const auto check = [](std::string_view name, const CodingModel& model) {
    return CheckProfile(*ParseProfile(name), model);
  };
  EXPECT_THAT(check("kv4r1", kModel), IsOk());
  EXPECT_THAT(check("kv0r2u", {128, 0}), IsOk());
  EXPECT_THAT(check("k0r2u-v4r1", {128, 0}),
              StatusIs(StatusCode::kFailedPrecondition, "needs dictionaries"));
  EXPECT_THAT(check("kv4r1", {128, 8192}), StatusIs(StatusCode::kFailedPrecondition,
                                                    "has 8192; use FP8 coefficients, as in "
                                                    "kv4f8r1"));
  EXPECT_THAT(check("kv4f8r1", {128, 8192}), IsOk());
  EXPECT_THAT(check("kv4r1", {96, 4096}), StatusIs(StatusCode::kFailedPrecondition,
                                                   "power of two of at least 8; the model's "
                                                   "is 96; use atoms alone, as in kv16"));
  EXPECT_THAT(check("kv16", {96, 4096}), IsOk());
}

TEST(ProfileTest, ListedProfilesFitAndBeginWithTheDefault) {
  EXPECT_EQ(ListedProfiles({12, 0}), std::vector<std::string>{"dense"});
  EXPECT_EQ(ListedProfiles({128, 0}), (std::vector<std::string>{"dense", "kv0r2u", "kv0r3u"}));
  EXPECT_EQ(ListedProfiles({12, 4096}),
            (std::vector<std::string>{"dense", "paper-s2", "paper-s4", "paper-s8", "paper-s12"}));
  const std::vector<std::string> all = ListedProfiles(kModel);
  EXPECT_EQ(all.front(), kDefaultProfile);
  EXPECT_EQ(all.size(), 14u);
  for (const std::string& name : all) {
    EXPECT_THAT(CheckProfile(*ParseProfile(name), kModel), IsOk()) << name;
  }
}

}  // namespace
}  // namespace lexico::base

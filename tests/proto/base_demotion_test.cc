#include <gtest/gtest.h>

#include <string>

#include "proto/base/demotion.h"
#include "tests/support/status_matchers.h"

namespace lexico::base {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

absl::Status Check(const std::string& from, const std::string& to) {
  return CheckDemotion(*ParseProfile(from), *ParseProfile(to));
}

TEST(DemotionTest, FewerAtomsOrBitsOfTheSameForm) {
  EXPECT_THAT(Check("paper-s16", "paper-s8"), IsOk());
  EXPECT_THAT(Check("paper-s2", "paper-s1"), IsOk());
  EXPECT_THAT(Check("kv16", "kv8"), IsOk());
  EXPECT_THAT(Check("kv16u", "kv8u"), IsOk());
  EXPECT_THAT(Check("kv4r2", "kv4r1"), IsOk());
  EXPECT_THAT(Check("kv4r2", "kv4"), IsOk());
  EXPECT_THAT(Check("k4r1-v8", "k4r1-v3"), IsOk());
  EXPECT_THAT(Check("k2r2-v4r1", "k0r2-v4r1"), IsOk());
  EXPECT_THAT(Check("kv0r3", "kv0r2"), IsOk());
}

TEST(DemotionTest, NothingComesBack) {
  const auto code = StatusCode::kFailedPrecondition;
  EXPECT_THAT(Check("paper-s8", "paper-s16"), StatusIs(code, "append the text to a new session"));
  EXPECT_THAT(Check("paper-s8", "paper-s8"), StatusIs(code, "paper-s8 has not fewer atoms"));
  EXPECT_THAT(Check("kv4r1", "kv2r2"), StatusIs(code, "has profile kv4r1, and kv2r2"));
  EXPECT_THAT(Check("k4-v8", "k8-v4"), StatusIs(code, "not fewer atoms"));
}

TEST(DemotionTest, TheFormStays) {
  const auto code = StatusCode::kFailedPrecondition;
  EXPECT_THAT(Check("paper-s16", "kv8"), StatusIs(code, "other coefficient bits or scales"));
  EXPECT_THAT(Check("kv16", "paper-s8"), StatusIs(code, "other coefficient bits or scales"));
  EXPECT_THAT(Check("kv16u", "kv8"), StatusIs(code, "other coefficient bits or scales"));
  EXPECT_THAT(Check("kv4r1", "kv0r1"), StatusIs(code, "has no atoms"));
  EXPECT_THAT(Check("dense", "paper-s8"), StatusIs(code, "of dense and paper-s8 one is dense"));
  EXPECT_THAT(Check("paper-s8", "dense"), StatusIs(code, "one is dense"));
}

}  // namespace
}  // namespace lexico::base

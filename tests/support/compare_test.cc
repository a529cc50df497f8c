// The judge is tested first: each case is a way in which a comparator has been seen to let a wrong
// result through.
#include "tests/support/compare.h"

#include <gmock/gmock.h>

#include <limits>
#include <vector>

namespace lexico::tests {
namespace {

using kernels::DType;
using kernels::TensorView;
using testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

testing::AssertionResult Compare(std::vector<float> actual, std::vector<float> expected,
                                 std::vector<float> magnitude, double ulps = 1) {
  const auto view = [](const std::vector<float>& v) {
    return TensorView(v.data(), {static_cast<int64_t>(v.size())});
  };
  return IsClose(view(actual), view(expected), view(magnitude), ulps);
}

TEST(CompareTest, EqualValuesPassEvenWithMagnitudeZero) {
  EXPECT_TRUE(Compare({0, -1, 2}, {0, -1, 2}, {0, 0, 0}));
}

TEST(CompareTest, DifferenceAtTheBoundPassesAndBeyondFails) {
  EXPECT_TRUE(Compare({1 + 0x1p-23f}, {1}, {1}));
  EXPECT_FALSE(Compare({1 + 0x1p-22f}, {1}, {1}));
  EXPECT_TRUE(Compare({1 + 0x1p-22f}, {1}, {1}, /*ulps=*/2));
  EXPECT_TRUE(Compare({1 + 0x1p-22f}, {1}, {2}));
}

TEST(CompareTest, NanInActualFails) { EXPECT_FALSE(Compare({kNan}, {1}, {1e9})); }
TEST(CompareTest, NanInExpectedFails) { EXPECT_FALSE(Compare({1}, {kNan}, {1e9})); }
TEST(CompareTest, NanInBothFails) { EXPECT_FALSE(Compare({kNan}, {kNan}, {1})); }
TEST(CompareTest, NanInMagnitudeFails) { EXPECT_FALSE(Compare({1.5}, {1}, {kNan})); }
TEST(CompareTest, NegativePairOutsideBoundFails) { EXPECT_FALSE(Compare({-5}, {-1}, {1})); }
TEST(CompareTest, EqualInfinitiesPass) { EXPECT_TRUE(Compare({-kInf}, {-kInf}, {0})); }
TEST(CompareTest, OppositeInfinitiesFail) { EXPECT_FALSE(Compare({kInf}, {-kInf}, {kInf})); }
TEST(CompareTest, InfinityAgainstFiniteFails) { EXPECT_FALSE(Compare({kInf}, {1}, {kInf})); }

TEST(CompareTest, ShapeMismatchFailsBeforeValues) {
  const std::vector<float> v(6, 1.0f);
  const TensorView a(v.data(), {2, 3});
  const TensorView b(v.data(), {3, 2});
  const testing::AssertionResult result = IsClose(a, b, a, 1);
  EXPECT_FALSE(result);
  EXPECT_THAT(result.message(), HasSubstr("[2, 3]"));
  EXPECT_THAT(result.message(), HasSubstr("[3, 2]"));
}

TEST(CompareTest, MessageNamesWorstAndFirstElement) {
  const std::vector<float> actual = {1, 2.5, 3, 9};
  const std::vector<float> expected = {1, 2, 3, 4};
  const std::vector<float> ones(4, 1.0f);
  const testing::AssertionResult result =
      IsClose(TensorView(actual.data(), {2, 2}), TensorView(expected.data(), {2, 2}),
              TensorView(ones.data(), {2, 2}), 1);
  EXPECT_FALSE(result);
  EXPECT_THAT(result.message(), HasSubstr("2 of 4"));
  EXPECT_THAT(result.message(), HasSubstr("worst [1, 1]: actual 9, expected 4"));
  EXPECT_THAT(result.message(), HasSubstr("first [0, 1]: actual 2.5, expected 2"));
}

TEST(CompareTest, HalfAndBfloatAreReadByValueAndJudgedByTheirEpsilon) {
  const std::vector<uint16_t> half = {0x3c00, 0xc000, 0x0001};  // 1, -2, 2^-24
  const std::vector<float> half_values = {1, -2, 0x1p-24f};
  const std::vector<float> zeros(3, 0.0f);
  EXPECT_TRUE(IsClose(TensorView(half.data(), DType::kF16, {3}),
                      TensorView(half_values.data(), {3}), TensorView(zeros.data(), {3}), 1));
  const std::vector<uint16_t> bfloat = {0x3f80};
  const std::vector<float> near = {1 + 0x1p-7f};
  const std::vector<float> far = {1 + 0x1p-6f};
  const std::vector<float> one = {1};
  const TensorView actual(bfloat.data(), DType::kBF16, {1});
  EXPECT_TRUE(IsClose(actual, TensorView(near.data(), {1}), TensorView(one.data(), {1}), 1));
  EXPECT_FALSE(IsClose(actual, TensorView(far.data(), {1}), TensorView(one.data(), {1}), 1));
}

TEST(CompareTest, SameBitsTellsZeroFromMinusZeroAndAcceptsEqualNan) {
  const std::vector<float> a = {0, kNan};
  const std::vector<float> b = {-0.0f, kNan};
  EXPECT_TRUE(SameBits(TensorView(a.data(), {2}), TensorView(a.data(), {2})));
  const testing::AssertionResult result =
      SameBits(TensorView(a.data(), {2}), TensorView(b.data(), {2}));
  EXPECT_FALSE(result);
  EXPECT_THAT(result.message(), HasSubstr("[0]"));
}

}  // namespace
}  // namespace lexico::tests

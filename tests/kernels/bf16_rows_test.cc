// Rows of prefill attention in BF16 against their formulas.
#include "kernels/cpu/bf16_rows.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/convert.h"
#include "tests/kernels/code_fixtures.h"

namespace lexico::kernels::cpu {
namespace {

using tests::RandomNormal;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Bf16RowsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (BestBf16Tile() == nullptr) GTEST_SKIP() << "this CPU does not offer AVX512_BF16";
  }
};

TEST_F(Bf16RowsTest, RoundRowRoundsAsFloatToBf16) {
  std::mt19937 random(1);
  std::vector<float> from = RandomNormal(96, random);
  // Halfway cases, both ways, the largest numbers and what is not finite.
  const uint32_t special[] = {0x3f808000u, 0x3f818000u, 0x3f808001u, 0x7f7fffffu, 0x7f800000u,
                              0xff800000u, 0x7f800001u, 0xffc00000u, 0x80000000u};
  for (size_t i = 0; i < std::size(special); ++i) from[i] = std::bit_cast<float>(special[i]);
  std::vector<uint16_t> to(96);
  RoundRow(from.data(), 96, 1.0f, to.data());
  for (size_t i = 0; i < 96; ++i) EXPECT_EQ(to[i], FloatToBf16(from[i])) << i;
  RoundRow(from.data() + 32, 64, 0.3f, to.data());
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(to[i], FloatToBf16(from[32 + i] * 0.3f)) << i;
}

TEST_F(Bf16RowsTest, PackColumnsPutsRowsSideBySide) {
  for (const int64_t n : {32, 64, 160}) {
    std::vector<uint16_t> rows(16 * n);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<uint16_t>(i);
    std::vector<uint16_t> panel(rows.size());
    PackColumns(rows.data(), n, panel.data());
    for (int64_t row = 0; row < 16; ++row)
      for (int64_t i = 0; i < n; ++i)
        EXPECT_EQ(panel[i / 2 * 32 + row * 2 + i % 2], rows[row * n + i]) << row << " " << i;
  }
}

TEST_F(Bf16RowsTest, PackPairsInterleavesRowsAndFindsWhatIsNotFinite) {
  std::mt19937 random(2);
  const std::vector<float> even = RandomNormal(64, random);
  const std::vector<float> odd = RandomNormal(64, random);
  std::vector<uint16_t> to(4 * 100);
  EXPECT_TRUE(PackPairs(even.data(), odd.data(), 64, to.data(), 100));
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(to[i / 16 * 100 + i % 16 * 2], FloatToBf16(even[i])) << i;
    EXPECT_EQ(to[i / 16 * 100 + i % 16 * 2 + 1], FloatToBf16(odd[i])) << i;
  }
  // 3.4e38 is finite in F32 and infinite in BF16.
  for (const float value : {kNan, kInfinity, -kInfinity, 3.4e38f, -3.4e38f}) {
    for (const int64_t at : {0, 17, 63}) {
      std::vector<float> bad = even;
      bad[at] = value;
      EXPECT_FALSE(PackPairs(bad.data(), odd.data(), 64, to.data(), 100)) << value << " " << at;
      EXPECT_FALSE(PackPairs(odd.data(), bad.data(), 64, to.data(), 100)) << value << " " << at;
    }
  }
}

TEST_F(Bf16RowsTest, RowMaxIsOfTheFirstScoresAlone) {
  std::mt19937 random(3);
  const std::vector<float> scores = RandomNormal(96, random);
  for (int64_t n = 0; n <= 96; ++n) {
    float expected = -0.5f;
    for (int64_t i = 0; i < n; ++i) expected = std::fmax(expected, scores[i]);
    EXPECT_EQ(RowMax(scores.data(), n, -0.5f), expected) << n;
  }
  EXPECT_EQ(RowMax(scores.data(), 0, -kInfinity), -kInfinity);
}

TEST_F(Bf16RowsTest, RowWeightsAreRoundedExponentialsAndTheirSum) {
  std::mt19937 random(4);
  std::vector<float> scores = RandomNormal(96, random, 20.0f);
  scores[5] = -kInfinity;
  scores[6] = -1e30f;
  scores[7] = -140.0f;
  for (int64_t visible = 0; visible <= 96; ++visible) {
    const float max = RowMax(scores.data(), visible, -kInfinity);
    std::vector<uint16_t> weights(96, 0xffff);
    const float sum = RowWeights(scores.data(), 96, visible, max, weights.data());
    double expected_sum = 0;
    for (int64_t i = 0; i < 96; ++i) {
      const double weight = i < visible ? std::exp2(static_cast<double>(scores[i] - max)) : 0.0;
      EXPECT_NEAR(Bf16ToFloat(weights[i]), weight, weight * 0x1.02p-8 + 0x1p-126) << visible << i;
      if (i < visible && scores[i] == max) {
        EXPECT_EQ(Bf16ToFloat(weights[i]), 1.0f);
      }
      expected_sum += Bf16ToFloat(weights[i]);
    }
    EXPECT_NEAR(sum, expected_sum, 1e-6 * expected_sum) << visible;
  }
}

TEST_F(Bf16RowsTest, RowWeightsOfMinusInfinityAreZeroAndNanStaysNan) {
  std::vector<float> scores(32, -kInfinity);
  std::vector<uint16_t> weights(32, 0xffff);
  EXPECT_EQ(RowWeights(scores.data(), 32, 32, -kInfinity, weights.data()), 0.0f);
  EXPECT_EQ(weights, std::vector<uint16_t>(32, 0));
  for (const uint32_t nan : {0x7fffffffu, 0x7f800001u, 0x7fc00000u, 0xffc00000u, 0xffffffffu}) {
    scores.assign(32, 0.0f);
    scores[1] = std::bit_cast<float>(nan);
    EXPECT_TRUE(std::isnan(RowWeights(scores.data(), 32, 32, 0.0f, weights.data()))) << nan;
    EXPECT_TRUE(std::isnan(Bf16ToFloat(weights[1]))) << nan;
  }
}

TEST_F(Bf16RowsTest, ScaleRowMultiplies) {
  std::vector<float> row(32, 3.0f);
  ScaleRow(0.5f, 32, row.data());
  EXPECT_EQ(row, std::vector<float>(32, 1.5f));
}

}  // namespace
}  // namespace lexico::kernels::cpu

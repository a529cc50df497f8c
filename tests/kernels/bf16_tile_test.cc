// The BF16 units on numbers whose products and sums are exact, so that every order of additions
// gives the same bits as the formula.
#include "kernels/cpu/bf16_tile.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "hwy/aligned_allocator.h"
#include "kernels/cpu/convert.h"

namespace lexico::kernels::cpu {
namespace {

// Whole numbers up to 8: the sum of 512 products stays below 2^24.
uint16_t SmallInteger(std::mt19937& random) {
  return FloatToBf16(static_cast<float>(static_cast<int>(random() % 17) - 8));
}

class Bf16TileTest : public testing::TestWithParam<Bf16UnitKind> {
 protected:
  void SetUp() override {
    if (unit() == nullptr) GTEST_SKIP() << "this CPU does not offer " << Bf16UnitName(GetParam());
    if (unit()->begin != nullptr) unit()->begin();
  }
  void TearDown() override {
    if (unit() != nullptr && unit()->end != nullptr) unit()->end();
  }
  const Bf16Tile* unit() const { return FindBf16Tile(GetParam()); }

  // Every size with gaps between rows and between panels, which hold NaN and must stay as they are.
  void ExpectExact(int64_t depth, int64_t n_panels, bool accumulate) {
    SCOPED_TRACE(testing::Message() << depth << " " << n_panels << " " << accumulate);
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    const int64_t rows = unit()->rows;
    const int64_t a_stride = depth + kBf16Depth;
    const int64_t panel_stride = (depth + kBf16Depth) * kBf16Columns;
    const int64_t n_columns = n_panels * kBf16Columns;
    const int64_t y_stride = n_columns + kBf16Columns;
    std::mt19937 random(static_cast<uint32_t>(depth * n_panels));
    const auto a = hwy::AllocateAligned<uint16_t>(rows * a_stride);
    const auto b = hwy::AllocateAligned<uint16_t>(n_panels * panel_stride);
    const auto y = hwy::AllocateAligned<float>(rows * y_stride);
    std::fill_n(a.get(), rows * a_stride, FloatToBf16(kNan));
    std::fill_n(b.get(), n_panels * panel_stride, FloatToBf16(kNan));
    std::fill_n(y.get(), rows * y_stride, kNan);
    std::vector<float> expected(y.get(), y.get() + rows * y_stride);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < depth; ++i) a[r * a_stride + i] = SmallInteger(random);
    const auto b_at = [&](int64_t i, int64_t c) -> uint16_t& {
      return b[c / kBf16Columns * panel_stride + i / 2 * 2 * kBf16Columns + c % kBf16Columns * 2 +
               i % 2];
    };
    for (int64_t i = 0; i < depth; ++i)
      for (int64_t c = 0; c < n_columns; ++c) b_at(i, c) = SmallInteger(random);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < n_columns; ++c) {
        if (accumulate) y[r * y_stride + c] = static_cast<float>(r - c);
        float sum = accumulate ? static_cast<float>(r - c) : 0.0f;
        for (int64_t i = 0; i < depth; ++i)
          sum += Bf16ToFloat(a[r * a_stride + i]) * Bf16ToFloat(b_at(i, c));
        expected[r * y_stride + c] = sum;
      }
    }
    unit()->multiply({.a = a.get(),
                      .a_stride = a_stride,
                      .b = b.get(),
                      .panel_stride = panel_stride,
                      .depth = depth,
                      .n_panels = n_panels,
                      .y = y.get(),
                      .y_stride = y_stride,
                      .accumulate = accumulate});
    for (int64_t i = 0; i < rows * y_stride; ++i) {
      if (expected[i] != expected[i]) {
        EXPECT_NE(y[i], y[i]) << i;
      } else {
        EXPECT_EQ(y[i], expected[i]) << i;
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Units, Bf16TileTest,
                         testing::Values(Bf16UnitKind::kAvx512Bf16, Bf16UnitKind::kAmx),
                         [](const auto& kind) { return Bf16UnitName(kind.param); });

TEST_P(Bf16TileTest, MultipliesExactlyAndTouchesNothingElse) {
  for (const int64_t depth : {32, 64, 96, 256})
    for (const int64_t n_panels : {2, 4, 8, 16})
      for (const bool accumulate : {false, true}) ExpectExact(depth, n_panels, accumulate);
}

TEST(BestBf16TileTest, IsTheUnitOfThisCpu) {
  const Bf16Tile* best = BestBf16Tile();
  const Bf16UnitKind unit = Bf16Unit();
  if (unit == Bf16UnitKind::kNone) {
    EXPECT_EQ(best, nullptr);
  } else {
    ASSERT_NE(best, nullptr);
    EXPECT_EQ(best->kind, unit) << Bf16UnitName(unit);
    RecordProperty("unit", Bf16UnitName(best->kind));
  }
}

}  // namespace
}  // namespace lexico::kernels::cpu

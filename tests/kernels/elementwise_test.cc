// The small dense ops against their definitions. Inputs come from fixed seeds.
#include "kernels/api/elementwise.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/elementwise_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::IsClose;
using tests::RandomNormal;
using tests::SameBits;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(ExpTest, IsWithinItsBoundOverTheWholeRange) {
  // Every 4001st float from -0 to -88: 280,000 arguments of every exponent.
  std::vector<float> x;
  for (uint32_t bits = 0x80000000u; bits <= 0xc2b00000u; bits += 4001)
    x.push_back(std::bit_cast<float>(bits));
  std::vector<float> y(x.size());
  double worst = 0;
  cpu::ExpNonPositive(x, y);
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(x[i]));
    if (expected < 1.2e-38) continue;  // flushed to 0
    worst = std::max(worst, std::fabs(y[i] - expected) / expected);
  }
  EXPECT_LE(worst, cpu::kExpUlps * 0x1p-23);
  cpu::Exp2NonPositive(x, y);
  worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp2(static_cast<double>(x[i]));
    worst = std::max(worst, std::fabs(y[i] - expected) / expected);
  }
  EXPECT_LE(worst, cpu::kExpUlps * 0x1p-23);
}

TEST(ExpTest, ZeroIsOneMinusInfinityIsZeroNanIsNan) {
  const std::vector<float> x = {0.0f,
                                -kInfinity,
                                -1e30f,
                                -200.0f,
                                kNan,
                                std::bit_cast<float>(0x7f800001u),
                                std::bit_cast<float>(~0u)};
  std::vector<float> y(x.size());
  for (const auto exp : {cpu::ExpNonPositive, cpu::Exp2NonPositive}) {
    exp(x, y);
    EXPECT_EQ(y[0], 1.0f);
    for (const int i : {1, 2, 3}) EXPECT_EQ(y[i], 0.0f) << i;
    for (const int i : {4, 5, 6}) EXPECT_TRUE(std::isnan(y[i])) << i;
  }
}

TEST(RmsNormTest, MatchesDefinitionAndARowDoesNotDependOnTheBatch) {
  std::mt19937 random(1);
  for (const int64_t n : {1, 7, 8, 33, 384, 1024}) {
    const int64_t n_rows = 70;
    const std::vector<float> x = RandomNormal(n_rows * n, random, 3.0f);
    const std::vector<float> weight = RandomNormal(n, random);
    std::vector<float> y(x.size());
    std::vector<float> expected(x.size());
    std::vector<float> magnitude(x.size());
    const TensorView w(weight.data(), {n});
    RmsNorm(TensorView(x.data(), {n_rows, n}), w, 1e-5f, MutableTensorView(y.data(), {n_rows, n}),
            Stream::Cpu(2));
    cpu::definition::RmsNorm(TensorView(x.data(), {n_rows, n}), w, 1e-5f,
                             MutableTensorView(expected.data(), {n_rows, n}),
                             MutableTensorView(magnitude.data(), {n_rows, n}));
    EXPECT_TRUE(IsClose(TensorView(y.data(), {n_rows, n}), TensorView(expected.data(), {n_rows, n}),
                        TensorView(magnitude.data(), {n_rows, n}), 8))
        << n;
    std::vector<float> alone(x.begin() + 5 * n, x.begin() + 6 * n);  // in place
    RmsNorm(TensorView(alone.data(), {1, n}), w, 1e-5f, MutableTensorView(alone.data(), {1, n}),
            Stream::Cpu(1));
    EXPECT_TRUE(SameBits(TensorView(alone.data(), {n}), TensorView(y.data() + 5 * n, {n}))) << n;
  }
}

TEST(RmsNormTest, ZerosStayZeros) {
  std::vector<float> x(16, 0.0f);
  const std::vector<float> weight(16, 2.0f);
  RmsNorm(TensorView(x.data(), {1, 16}), TensorView(weight.data(), {16}), 1e-6f,
          MutableTensorView(x.data(), {1, 16}), Stream::Cpu(1));
  for (const float y : x) EXPECT_EQ(y, 0.0f);
}

// Rotates rows of `row_stride` floats and returns them.
std::vector<float> Rotate(std::vector<float> x, const std::vector<int32_t>& positions, int n_heads,
                          int head_dim, int64_t row_stride, int threads, float* magnitude) {
  std::vector<double> inv_frequency(head_dim / 2);
  for (int i = 0; i < head_dim / 2; ++i) inv_frequency[i] = std::pow(10000.0, -2.0 * i / head_dim);
  const RopeArgs args{x.data(),     static_cast<int64_t>(positions.size()),
                      row_stride,   n_heads,
                      head_dim,     positions.data(),
                      inv_frequency};
  if (magnitude != nullptr) {
    cpu::definition::Rope(args, magnitude);
  } else {
    Rope(args, Stream::Cpu(threads));
  }
  return x;
}

TEST(RopeTest, MatchesDefinitionAtSmallAndLargePositions) {
  std::mt19937 random(2);
  for (const int head_dim : {2, 8, 10, 64, 128}) {
    const std::vector<int32_t> positions = {0, 1, 2, 63, 64, 65, 5, 131071, 131072, 16383, 1};
    const int64_t stride = 3 * head_dim + 5;  // more than the 3 heads
    const int64_t n = static_cast<int64_t>(positions.size()) * stride;
    const std::vector<float> x = RandomNormal(n, random);
    std::vector<float> magnitude(n, 0.0f);
    const auto expected = Rotate(x, positions, 3, head_dim, stride, 1, magnitude.data());
    const auto actual = Rotate(x, positions, 3, head_dim, stride, 2, nullptr);
    // What lies between rows has magnitude 0: it must not change.
    EXPECT_TRUE(IsClose(TensorView(actual.data(), {n}), TensorView(expected.data(), {n}),
                        TensorView(magnitude.data(), {n}), 2))
        << head_dim;
  }
}

TEST(RopeTest, ARowHasTheSameBitsAloneAndOnAnyNumberOfThreads) {
  std::mt19937 random(3);
  std::vector<int32_t> positions(400);
  for (int i = 0; i < 400; ++i) positions[i] = 1000 + i;
  const std::vector<float> x = RandomNormal(400 * 128, random);
  const auto all = Rotate(x, positions, 2, 64, 128, 1, nullptr);
  const auto threaded = Rotate(x, positions, 2, 64, 128, 3, nullptr);
  EXPECT_TRUE(
      SameBits(TensorView(threaded.data(), {400, 128}), TensorView(all.data(), {400, 128})));
  const std::vector<float> row(x.begin() + 77 * 128, x.begin() + 78 * 128);
  const auto alone = Rotate(row, {1077}, 2, 64, 128, 1, nullptr);
  EXPECT_TRUE(SameBits(TensorView(alone.data(), {128}), TensorView(all.data() + 77 * 128, {128})));
}

TEST(SwiGluTest, MatchesDefinitionIncludingLargeGates) {
  std::mt19937 random(4);
  for (const int64_t n : {1, 9, 1024}) {
    std::vector<float> x = RandomNormal(40 * 2 * n, random, 20.0f);
    x[0] = 1e4f;
    x[n > 1 ? 1 : 0] = -1e4f;
    std::vector<float> y(40 * n);
    std::vector<float> expected(40 * n);
    std::vector<float> magnitude(40 * n);
    SwiGlu(TensorView(x.data(), {40, 2 * n}), MutableTensorView(y.data(), {40, n}), Stream::Cpu(2));
    cpu::definition::SwiGlu(TensorView(x.data(), {40, 2 * n}),
                            MutableTensorView(expected.data(), {40, n}),
                            MutableTensorView(magnitude.data(), {40, n}));
    // exp flushes below 2^-126: such results differ by less than the smallest normal number.
    for (float& m : magnitude) m += 1e-30f;
    EXPECT_TRUE(IsClose(TensorView(y.data(), {40, n}), TensorView(expected.data(), {40, n}),
                        TensorView(magnitude.data(), {40, n}), 4))
        << n;
  }
}

TEST(SwiGluTest, NanStaysWhereItIs) {
  std::vector<float> x(2 * 32, 1.0f);
  x[5] = kNan;
  std::vector<float> y(32);
  SwiGlu(TensorView(x.data(), {1, 64}), MutableTensorView(y.data(), {1, 32}), Stream::Cpu(1));
  for (int i = 0; i < 32; ++i) EXPECT_EQ(std::isnan(y[i]), i == 5) << i;
}

TEST(ConvertTest, WideningOfEveryF16AndBf16IsExactAndRoundTrips) {
  std::vector<uint16_t> bits(1 << 16);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const auto n = static_cast<int64_t>(bits.size());
  for (const DType type : {DType::kF16, DType::kBF16}) {
    std::vector<float> wide(n);
    std::vector<uint16_t> back(n);
    Convert(TensorView(bits.data(), type, {n}), MutableTensorView(wide.data(), {n}),
            Stream::Cpu(2));
    Convert(TensorView(wide.data(), {n}), MutableTensorView(back.data(), type, {n}),
            Stream::Cpu(2));
    for (int64_t i = 0; i < n; ++i) {
      const float scalar = cpu::LoadFloat(bits.data(), type, i);
      if (std::isnan(scalar)) {
        EXPECT_TRUE(std::isnan(wide[i])) << i;
        EXPECT_TRUE(std::isnan(cpu::LoadFloat(back.data(), type, i))) << i;
      } else {
        EXPECT_EQ(wide[i], scalar) << i;
        EXPECT_EQ(back[i], bits[i]) << i;
      }
    }
  }
}

TEST(ConvertTest, NarrowingRoundsToTheNearerNeighbourAndTiesToEven) {
  for (const DType type : {DType::kF16, DType::kBF16}) {
    const uint16_t infinity = type == DType::kF16 ? 0x7c00 : 0x7f80;
    // Between each pair of neighbours: below, at and above the middle.
    std::vector<float> x;
    std::vector<uint16_t> expected;
    for (uint16_t bits = 0; bits + 1 < infinity; bits += 7) {
      const float low = cpu::LoadFloat(&bits, type, 0);
      const uint16_t next = bits + 1;
      const float middle = low / 2 + cpu::LoadFloat(&next, type, 0) / 2;  // exact in F32
      if (middle < 1e-30f) continue;                                      // BF16 subnormals
      x.insert(x.end(), {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, kInfinity)});
      expected.insert(expected.end(), {bits, bits % 2 == 0 ? bits : next, next});
    }
    x.insert(x.end(), {kInfinity, -kInfinity, 3.4e38f, -0.0f});
    const auto sign = static_cast<uint16_t>(0x8000);
    expected.insert(expected.end(),
                    {infinity, static_cast<uint16_t>(sign | infinity), infinity, sign});
    const auto n = static_cast<int64_t>(x.size());
    std::vector<uint16_t> actual(n);
    Convert(TensorView(x.data(), {n}), MutableTensorView(actual.data(), type, {n}), Stream::Cpu(1));
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(actual[i], expected[i]) << DTypeName(type) << x[i];
  }
}

TEST(ConvertTest, F16ToBf16AndSameTypeCopies) {
  const std::vector<uint16_t> half = {cpu::FloatToF16(1.5f), cpu::FloatToF16(-0.25f)};
  std::vector<uint16_t> out(2);
  Convert(TensorView(half.data(), DType::kF16, {2}),
          MutableTensorView(out.data(), DType::kBF16, {2}), Stream::Cpu(1));
  EXPECT_EQ(out[0], cpu::FloatToBf16(1.5f));
  EXPECT_EQ(out[1], cpu::FloatToBf16(-0.25f));
  Convert(TensorView(half.data(), DType::kF16, {2}),
          MutableTensorView(out.data(), DType::kF16, {2}), Stream::Cpu(1));
  EXPECT_EQ(out, half);
}

TEST(EmbedTest, TakesRowsOfEveryType) {
  std::mt19937 random(5);
  const std::vector<float> values = RandomNormal(6 * 20, random);
  const std::vector<int32_t> ids = {5, 0, 5, 3};
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<uint8_t> table(values.size() * DTypeBytes(type));
    Convert(TensorView(values.data(), {6, 20}), MutableTensorView(table.data(), type, {6, 20}),
            Stream::Cpu(1));
    std::vector<float> y(4 * 20, kNan);
    Embed(TensorView(table.data(), type, {6, 20}), ids, MutableTensorView(y.data(), {4, 20}),
          Stream::Cpu(2));
    for (int64_t row = 0; row < 4; ++row)
      for (int64_t i = 0; i < 20; ++i)
        EXPECT_EQ(y[row * 20 + i], cpu::LoadFloat(table.data(), type, ids[row] * 20 + i));
  }
}

TEST(ElementwiseDeathTest, IdOutOfRangeAndWrongShapesAbort) {
  std::vector<float> x(64);
  const std::vector<int32_t> ids = {4};
  const TensorView table(x.data(), {4, 16});
  EXPECT_DEATH(Embed(table, ids, MutableTensorView(x.data(), {1, 16}), Stream::Cpu(1)),
               "table.dim");
  EXPECT_DEATH(SwiGlu(table, MutableTensorView(x.data(), {4, 16}), Stream::Cpu(1)), "gate_up");
  EXPECT_DEATH(RmsNorm(table, TensorView(x.data(), {8}), 1e-5f,
                       MutableTensorView(x.data(), {4, 16}), Stream::Cpu(1)),
               "weight");
}

}  // namespace
}  // namespace lexico::kernels

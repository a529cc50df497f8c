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
#include "tests/kernels/device_array.h"
#include "tests/kernels/device_ops.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::DeviceArray;
using tests::IsClose;
using tests::RandomNormal;

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

// An op's suite: the properties hold on every device.
class ElementwiseTest : public tests::DeviceTest {
 protected:
  Stream WithThreads(int threads) const { return on_gpu() ? stream() : Stream::Cpu(threads); }

  std::vector<float> Norm(const std::vector<float>& x, const std::vector<float>& weight,
                          float epsilon, int threads = 1) const {
    const auto n = static_cast<int64_t>(weight.size());
    const int64_t n_rows = static_cast<int64_t>(x.size()) / n;
    const DeviceArray<float> x_there(x, stream());
    const DeviceArray<float> weight_there(weight, stream());
    const DeviceArray<float> y(std::vector<float>(x.size(), kNan), stream());
    RmsNorm(x_there.View({n_rows, n}), weight_there.View({n}), epsilon, y.View({n_rows, n}),
            WithThreads(threads));
    return y.Values();
  }

  // gate_up [n_rows, 2 n].
  std::vector<float> Swi(const std::vector<float>& gate_up, int64_t n, int threads = 1) const {
    const int64_t n_rows = static_cast<int64_t>(gate_up.size()) / (2 * n);
    const DeviceArray<float> there(gate_up, stream());
    const DeviceArray<float> y(std::vector<float>(n_rows * n, kNan), stream());
    SwiGlu(there.View({n_rows, 2 * n}), y.View({n_rows, n}), WithThreads(threads));
    return y.Values();
  }

  // F32 -> 16 bits and back.
  std::vector<uint16_t> ToHalf(const std::vector<float>& x, DType type) const {
    const auto n = static_cast<int64_t>(x.size());
    const DeviceArray<float> from(x, stream());
    const DeviceArray<uint16_t> to(std::vector<uint16_t>(x.size(), 0xeeee), stream());
    Convert(from.View({n}), to.View(type, {n}), WithThreads(2));
    return to.Values();
  }
  std::vector<float> FromHalf(const std::vector<uint16_t>& x, DType type) const {
    const auto n = static_cast<int64_t>(x.size());
    const DeviceArray<uint16_t> from(x, stream());
    const DeviceArray<float> to(std::vector<float>(x.size(), -1.0f), stream());
    Convert(from.View(type, {n}), to.View({n}), WithThreads(2));
    return to.Values();
  }
};
LEXICO_TEST_ON_ALL_DEVICES(ElementwiseTest);

TEST_P(ElementwiseTest, RmsNormMatchesDefinitionAndARowDoesNotDependOnTheBatch) {
  std::mt19937 random(1);
  for (const int64_t n : {1, 7, 8, 33, 384, 1024, 4096}) {
    const int64_t n_rows = 70;
    const std::vector<float> x = RandomNormal(n_rows * n, random, 3.0f);
    const std::vector<float> weight = RandomNormal(n, random);
    std::vector<float> expected(x.size());
    std::vector<float> magnitude(x.size());
    cpu::definition::RmsNorm(TensorView(x.data(), {n_rows, n}), TensorView(weight.data(), {n}),
                             1e-5f, MutableTensorView(expected.data(), {n_rows, n}),
                             MutableTensorView(magnitude.data(), {n_rows, n}));
    const std::vector<float> y = Norm(x, weight, 1e-5f, 2);
    EXPECT_TRUE(IsClose(TensorView(y.data(), {n_rows, n}), TensorView(expected.data(), {n_rows, n}),
                        TensorView(magnitude.data(), {n_rows, n}), 8))
        << n;
    const DeviceArray<float> alone({x.begin() + 5 * n, x.begin() + 6 * n}, stream());
    const DeviceArray<float> weight_there(weight, stream());
    RmsNorm(alone.View({1, n}), weight_there.View({n}), 1e-5f, alone.View({1, n}), stream());
    EXPECT_EQ(alone.Values(), std::vector<float>(y.begin() + 5 * n, y.begin() + 6 * n)) << n;
  }
}

TEST_P(ElementwiseTest, RmsNormOfZerosIsZeros) {
  const std::vector<float> zero(16, 0.0f);
  EXPECT_EQ(Norm(zero, std::vector<float>(16, 2.0f), 1e-6f), zero);
}

TEST_P(ElementwiseTest, RmsNormKeepsNanInItsRow) {
  std::vector<float> x(3 * 40, 1.0f);
  x[40 + 17] = kNan;
  const std::vector<float> y = Norm(x, std::vector<float>(40, 1.0f), 1e-6f);
  for (int i = 0; i < 3 * 40; ++i) EXPECT_EQ(std::isnan(y[i]), i / 40 == 1) << i;
}

TEST_P(ElementwiseTest, SwiGluMatchesDefinitionIncludingLargeGates) {
  std::mt19937 random(4);
  for (const int64_t n : {1, 9, 1024}) {
    std::vector<float> x = RandomNormal(40 * 2 * n, random, 20.0f);
    x[0] = 1e4f;
    x[n > 1 ? 1 : 0] = -1e4f;
    std::vector<float> expected(40 * n);
    std::vector<float> magnitude(40 * n);
    cpu::definition::SwiGlu(TensorView(x.data(), {40, 2 * n}),
                            MutableTensorView(expected.data(), {40, n}),
                            MutableTensorView(magnitude.data(), {40, n}));
    // exp flushes below 2^-126: such results differ by less than the smallest normal number.
    for (float& m : magnitude) m += 1e-30f;
    const std::vector<float> y = Swi(x, n, 2);
    EXPECT_TRUE(IsClose(TensorView(y.data(), {40, n}), TensorView(expected.data(), {40, n}),
                        TensorView(magnitude.data(), {40, n}), 4))
        << n;
  }
}

TEST_P(ElementwiseTest, SwiGluKeepsNanWhereItIs) {
  std::vector<float> x(2 * 32, 1.0f);
  x[5] = kNan;
  const std::vector<float> y = Swi(x, 32);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(std::isnan(y[i]), i == 5) << i;
}

TEST_P(ElementwiseTest, SixteenBitResultsAreTheRoundedOnesOfF32) {
  if (!on_gpu()) GTEST_SKIP() << "F32 only on a CPU";
  std::mt19937 random(6);
  for (const DType type : {DType::kF16, DType::kBF16}) {
    for (const int64_t n : {7, 64}) {
      const std::vector<float> x = RandomNormal(9 * 2 * n, random);
      const std::vector<float> weight = RandomNormal(2 * n, random);
      const DeviceArray<float> x_there(x, stream());
      const DeviceArray<float> weight_there(weight, stream());
      const DeviceArray<uint16_t> normed(std::vector<uint16_t>(9 * 2 * n, 0xeeee), stream());
      RmsNorm(x_there.View({9, 2 * n}), weight_there.View({2 * n}), 1e-5f,
              normed.View(type, {9, 2 * n}), stream());
      EXPECT_EQ(normed.Values(), ToHalf(Norm(x, weight, 1e-5f), type));
      const DeviceArray<uint16_t> y(std::vector<uint16_t>(9 * n, 0xeeee), stream());
      SwiGlu(x_there.View({9, 2 * n}), y.View(type, {9, n}), stream());
      EXPECT_EQ(y.Values(), ToHalf(Swi(x, n), type));
    }
  }
}

TEST_P(ElementwiseTest, WideningOfEveryF16AndBf16IsExactAndRoundTrips) {
  std::vector<uint16_t> bits(1 << 16);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const auto n = static_cast<int64_t>(bits.size());
  for (const DType type : {DType::kF16, DType::kBF16}) {
    const std::vector<float> wide = FromHalf(bits, type);
    const std::vector<uint16_t> back = ToHalf(wide, type);
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

TEST_P(ElementwiseTest, NarrowingRoundsToTheNearerNeighbourAndTiesToEven) {
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
    const std::vector<uint16_t> actual = ToHalf(x, type);
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_EQ(actual[i], expected[i]) << DTypeName(type) << x[i];
  }
}

TEST_P(ElementwiseTest, F16ToBf16AndSameTypeCopies) {
  const std::vector<uint16_t> half = {cpu::FloatToF16(1.5f), cpu::FloatToF16(-0.25f)};
  const DeviceArray<uint16_t> from(half, stream());
  const DeviceArray<uint16_t> to(std::vector<uint16_t>(2), stream());
  Convert(from.View(DType::kF16, {2}), to.View(DType::kBF16, {2}), stream());
  EXPECT_EQ(to.Values(), (std::vector<uint16_t>{cpu::FloatToBf16(1.5f), cpu::FloatToBf16(-0.25f)}));
  Convert(from.View(DType::kF16, {2}), to.View(DType::kF16, {2}), stream());
  EXPECT_EQ(to.Values(), half);
}

TEST_P(ElementwiseTest, EmbedTakesRowsOfEveryType) {
  std::mt19937 random(5);
  const std::vector<int32_t> ids = {5, 0, 5, 3};
  for (const int64_t n : {20, 23}) {
    const std::vector<float> values = RandomNormal(6 * n, random);
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      std::vector<uint8_t> table(values.size() * DTypeBytes(type));
      Convert(TensorView(values.data(), {6, n}), MutableTensorView(table.data(), type, {6, n}),
              Stream::Cpu(1));
      const DeviceArray<uint8_t> table_there(table, stream());
      const DeviceArray<int32_t> ids_there(ids, stream());
      const DeviceArray<float> y(std::vector<float>(4 * n, kNan), stream());
      Embed(table_there.View(type, {6, n}), {ids_there.data(), ids.size()}, y.View({4, n}),
            WithThreads(2));
      const std::vector<float> rows = y.Values();
      for (int64_t row = 0; row < 4; ++row)
        for (int64_t i = 0; i < n; ++i)
          EXPECT_EQ(rows[row * n + i], cpu::LoadFloat(table.data(), type, ids[row] * n + i));
    }
  }
}

// A CPU refuses it (ElementwiseDeathTest); a GPU cannot.
TEST_P(ElementwiseTest, AnIdOutOfRangeGivesNanOnAGpu) {
  if (!on_gpu()) GTEST_SKIP() << "a CPU aborts";
  const DeviceArray<float> table({1, 2, 3, 4}, stream());
  const DeviceArray<int32_t> ids({1, 2, -1}, stream());
  const DeviceArray<float> y(std::vector<float>(6), stream());
  Embed(table.View({2, 2}), {ids.data(), 3}, y.View({3, 2}), stream());
  const std::vector<float> rows = y.Values();
  EXPECT_EQ(rows[0], 3);
  EXPECT_EQ(rows[1], 4);
  for (int i = 2; i < 6; ++i) EXPECT_TRUE(std::isnan(rows[i])) << i;
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

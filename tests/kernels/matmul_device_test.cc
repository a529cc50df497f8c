// What MatMul promises on every device, through the interface alone; the units of a CPU have their
// own file, matmul_test.cc.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/api/matmul.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/matmul_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/device_ops.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::DeviceArray;
using tests::IsClose;
using tests::RandomNormal;

// As matmul_test.cc: F32 sums of random terms.
constexpr double kUlps = 16;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

uint16_t ToBits(float x, DType type) {
  return type == DType::kF16 ? cpu::FloatToF16(x) : cpu::FloatToBf16(x);
}

float Rounded(float x, DType type) {
  if (type == DType::kF32) return x;
  const uint16_t bits = ToBits(x, type);
  return cpu::LoadFloat(&bits, type, 0);
}

// n_out x n_in numbers of a type, in host memory.
struct Weights {
  Weights(int64_t rows, int64_t columns, DType dtype, std::mt19937& random)
      : n_out(rows), n_in(columns), type(dtype), wide(RandomNormal(rows * columns, random)) {
    for (float& w : wide) {
      if (type != DType::kF32) narrow.push_back(ToBits(w, type));
    }
  }
  TensorView view() const {
    if (type == DType::kF32) return TensorView(wide.data(), {n_out, n_in});
    return TensorView(narrow.data(), type, {n_out, n_in});
  }
  int64_t n_out;
  int64_t n_in;
  DType type;
  std::vector<float> wide;
  std::vector<uint16_t> narrow;
};

class MatMulDeviceTest : public tests::DeviceTest {
 protected:
  static std::shared_ptr<const PreparedMatrix> Prepare(const Weights& w, const Stream& stream) {
    auto made = PrepareMatrix({w.view()}, stream);
    LEXICO_CHECK(made.ok());
    return *made;
  }

  static std::vector<float> Multiply(const std::vector<float>& x, const PreparedMatrix& w,
                                     const Stream& stream, bool accumulate = false,
                                     float before = kNan) {
    const int64_t n_rows = static_cast<int64_t>(x.size()) / w.n_in();
    const DeviceArray<float> x_there(x, stream);
    const DeviceArray<float> y(std::vector<float>(n_rows * w.n_out(), before), stream);
    MatMul(x_there.View({n_rows, w.n_in()}), w, y.View({n_rows, w.n_out()}), accumulate, stream);
    return y.Values();
  }

  // `x` as the product takes it: on a GPU rounded to the weights' type.
  std::vector<float> AsMultiplied(std::vector<float> x, const PreparedMatrix& w) const {
    for (float& value : x) value = Rounded(value, w.input_type());
    return x;
  }

  void ExpectMatchesDefinition(const std::vector<float>& actual, const std::vector<float>& x,
                               const PreparedMatrix& w, const std::vector<TensorView>& weights,
                               bool accumulate, float before) const {
    const int64_t n_rows = static_cast<int64_t>(x.size()) / w.n_in();
    const std::vector<float> taken = AsMultiplied(x, w);
    std::vector<float> expected(n_rows * w.n_out(), before);
    std::vector<float> magnitude(expected.size());
    cpu::definition::MatMul(TensorView(taken.data(), {n_rows, w.n_in()}), weights, accumulate,
                            MutableTensorView(expected.data(), {n_rows, w.n_out()}),
                            MutableTensorView(magnitude.data(), {n_rows, w.n_out()}));
    EXPECT_TRUE(IsClose(TensorView(actual.data(), {n_rows, w.n_out()}),
                        TensorView(expected.data(), {n_rows, w.n_out()}),
                        TensorView(magnitude.data(), {n_rows, w.n_out()}), kUlps));
  }

  void ExpectRight(int64_t n_rows, int64_t n_in, int64_t n_out, DType type, bool accumulate,
                   uint32_t seed) const {
    SCOPED_TRACE(fmt::format("rows {} in {} out {} type {} accumulate {} seed {}", n_rows, n_in,
                             n_out, DTypeName(type), accumulate, seed));
    std::mt19937 random(seed);
    const Weights w(n_out, n_in, type, random);
    const auto matrix = Prepare(w, stream());
    const std::vector<float> x = AsMultiplied(RandomNormal(n_rows * n_in, random), *matrix);
    const float before = accumulate ? 3.0f : kNan;
    ExpectMatchesDefinition(Multiply(x, *matrix, stream(), accumulate, before), x, *matrix,
                            {w.view()}, accumulate, before);
  }
};
LEXICO_TEST_ON_ALL_DEVICES(MatMulDeviceTest);

TEST_P(MatMulDeviceTest, MatchesDefinitionOnAllTinyShapes) {
  uint32_t seed = 1;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
    for (const int64_t n_rows : {1, 2, 5, 8})
      for (const int64_t n_in : {1, 2, 7, 8, 9, 12})
        for (const int64_t n_out : {1, 15, 16, 33})
          ExpectRight(n_rows, n_in, n_out, type, seed % 2 == 0, seed), ++seed;
}

TEST_P(MatMulDeviceTest, MatchesDefinitionOnShapesOfTheModel) {
  ExpectRight(1, 1024, 384, DType::kBF16, true, 1);
  ExpectRight(8, 384, 1536, DType::kBF16, false, 2);
  ExpectRight(3, 384, 8192, DType::kF16, false, 3);
  ExpectRight(5, 128, 512, DType::kF32, false, 4);
}

TEST_P(MatMulDeviceTest, F32RowsAreRoundedToTheWeightsTypeOnAGpu) {
  if (!on_gpu()) GTEST_SKIP() << "a CPU keeps them F32 for few rows";
  std::mt19937 random(11);
  for (const DType type : {DType::kF16, DType::kBF16}) {
    for (const int64_t n_in : {64, 65}) {
      const Weights w(40, n_in, type, random);
      const auto matrix = Prepare(w, stream());
      EXPECT_EQ(matrix->input_type(), type);
      const std::vector<float> x = RandomNormal(6 * n_in, random);
      const std::vector<float> y = Multiply(x, *matrix, stream());
      ExpectMatchesDefinition(y, x, *matrix, {w.view()}, false, 0);
      // The same rows in the weights' type give the same bits.
      std::vector<uint16_t> narrow;
      for (const float value : x) narrow.push_back(ToBits(value, type));
      const DeviceArray<uint16_t> there(narrow, stream());
      const DeviceArray<float> direct(std::vector<float>(y.size(), kNan), stream());
      MatMul(there.View(type, {6, n_in}), *matrix, direct.View({6, 40}), false, stream());
      EXPECT_EQ(direct.Values(), y) << n_in;
    }
  }
}

TEST_P(MatMulDeviceTest, F32WeightsMultiplyInF32) {
  std::mt19937 random(12);
  const Weights w(96, 512, DType::kF32, random);
  const auto matrix = Prepare(w, stream());
  EXPECT_EQ(matrix->input_type(), DType::kF32);
  const std::vector<float> x = RandomNormal(100 * 512, random);
  ExpectMatchesDefinition(Multiply(x, *matrix, stream()), x, *matrix, {w.view()}, false, 0);
}

TEST_P(MatMulDeviceTest, StackOfDifferentTypesIsHeldAsF32) {
  std::mt19937 random(15);
  const Weights a(20, 30, DType::kBF16, random);
  const Weights b(13, 30, DType::kF32, random);
  const Weights c(7, 30, DType::kF16, random);
  auto made = PrepareMatrix({a.view(), b.view(), c.view()}, stream());
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ((*made)->input_type(), DType::kF32);
  const std::vector<float> x = RandomNormal(5 * 30, random);
  ExpectMatchesDefinition(Multiply(x, **made, stream()), x, **made, {a.view(), b.view(), c.view()},
                          false, 0);
}

TEST_P(MatMulDeviceTest, StackOfOneTypeKeepsIt) {
  std::mt19937 random(16);
  const Weights a(24, 40, DType::kBF16, random);
  const Weights b(8, 40, DType::kBF16, random);
  auto made = PrepareMatrix({a.view(), b.view()}, stream());
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ((*made)->n_out(), 32);
  if (on_gpu()) {
    EXPECT_EQ((*made)->bytes(), 32u * 40u * 2u);
  }
  const std::vector<float> x = AsMultiplied(RandomNormal(5 * 40, random), **made);
  ExpectMatchesDefinition(Multiply(x, **made, stream()), x, **made, {a.view(), b.view()}, false, 0);
}

TEST_P(MatMulDeviceTest, SameBitsOnEveryRun) {
  std::mt19937 random(12);
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Weights w(384, 1024, type, random);
    const auto matrix = Prepare(w, stream());
    for (const int64_t n_rows : {1, 8, 130}) {
      const std::vector<float> x = RandomNormal(n_rows * 1024, random);
      const std::vector<float> first = Multiply(x, *matrix, stream());
      for (int run = 0; run < 3; ++run) EXPECT_EQ(Multiply(x, *matrix, stream()), first) << n_rows;
    }
  }
}

TEST_P(MatMulDeviceTest, ARowDiffersBetweenBatchesByTheRoundingOfItsSumOnly) {
  std::mt19937 random(19);
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Weights w(256, 2048, type, random);
    const auto matrix = Prepare(w, stream());
    std::vector<float> x = RandomNormal(300 * 2048, random);
    // What a GPU, and the BF16 units of a CPU for many rows, would round anyway.
    for (float& value : x) value = Rounded(value, type);
    const std::vector<float> all = Multiply(x, *matrix, stream());
    double worst = 0;
    for (const int64_t n_rows : {1, 3, 8, 64, 257}) {
      const std::vector<float> some =
          Multiply({x.begin(), x.begin() + n_rows * 2048}, *matrix, stream());
      for (int64_t i = 0; i < n_rows * 256; ++i) {
        double magnitude = 0;
        for (int64_t j = 0; j < 2048; ++j) {
          magnitude += std::fabs(x[i / 256 * 2048 + j] * Rounded(w.wide[i % 256 * 2048 + j], type));
        }
        worst = std::max(worst, std::fabs(some[i] - all[i]) / magnitude);
        if (i >= 3 * 256) break;
      }
    }
    RecordProperty(fmt::format("units_of_2^-24_{}", DTypeName(type)),
                   fmt::format("{:.2f}", worst * 0x1p24));
    EXPECT_LE(worst, 2 * kUlps * 0x1p-23) << DTypeName(type);
  }
}

TEST_P(MatMulDeviceTest, IsRecordedInAGraph) {
  if (!on_gpu()) GTEST_SKIP() << "a CPU records nothing";
  std::mt19937 random(20);
  const Weights w(72, 100, DType::kBF16, random);
  const auto matrix = Prepare(w, stream());
  const std::vector<float> x = RandomNormal(11 * 100, random);
  const DeviceArray<float> x_there(x, stream());
  const DeviceArray<float> y(std::vector<float>(11 * 72, kNan), stream());
  // The first product of the shape, so that its plan is made while recording.
  stream().device()->ReplayMicroseconds(
      [&] {
        MatMul(x_there.View({11, 100}), *matrix, y.View({11, 72}), false, stream());
      },
      2);
  EXPECT_EQ(y.Values(), Multiply(x, *matrix, stream()));
  ExpectMatchesDefinition(y.Values(), x, *matrix, {w.view()}, false, 0);
}

TEST_P(MatMulDeviceTest, NanInOneRowStaysInThatRow) {
  std::mt19937 random(13);
  const Weights w(40, 24, DType::kBF16, random);
  const auto matrix = Prepare(w, stream());
  std::vector<float> x = RandomNormal(7 * 24, random);
  const std::vector<float> clean = Multiply(x, *matrix, stream());
  x[4 * 24 + 3] = kNan;
  const std::vector<float> poisoned = Multiply(x, *matrix, stream());
  for (int64_t i = 0; i < 7 * 40; ++i) {
    if (i / 40 == 4) {
      EXPECT_TRUE(std::isnan(poisoned[i])) << i;
    } else {
      EXPECT_EQ(poisoned[i], clean[i]) << i;
    }
  }
}

TEST_P(MatMulDeviceTest, RowsThatDoNotFitTheWorkspaceGoInWaves) {
  if (!on_gpu()) GTEST_SKIP() << "a CPU has no workspace";
  auto small = Stream::Cuda({.workspace_bytes = size_t{64} << 10});
  ASSERT_TRUE(small.ok()) << small.status();
  std::mt19937 random(17);
  const Weights w(48, 1000, DType::kBF16, random);  // 32 KiB hold 16 rows
  const auto matrix = Prepare(w, *small);
  const std::vector<float> x = RandomNormal(67 * 1000, random);
  ExpectMatchesDefinition(Multiply(x, *matrix, *small, true, 2.0f), x, *matrix, {w.view()}, true,
                          2.0f);
}

TEST_P(MatMulDeviceTest, MalformedWeightsAreRefused) {
  const std::vector<float> w(12);
  const auto uneven =
      PrepareMatrix({TensorView(w.data(), {3, 4}), TensorView(w.data(), {4, 3})}, stream());
  EXPECT_EQ(uneven.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PrepareMatrix({TensorView(w.data(), {0, 4})}, stream()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(MatMulDeviceDeathTest, ACpuTakesF32Only) {
  std::mt19937 random(18);
  const Weights w(4, 8, DType::kBF16, random);
  const auto made = PrepareMatrix({w.view()}, Stream::Cpu(1));
  ASSERT_TRUE(made.ok());
  const std::vector<uint16_t> x(8);
  std::vector<float> y(4);
  EXPECT_DEATH(MatMul(TensorView(x.data(), DType::kBF16, {1, 8}), **made,
                      MutableTensorView(y.data(), {1, 4}), false, Stream::Cpu(1)),
               "input_type");
}

}  // namespace
}  // namespace lexico::kernels

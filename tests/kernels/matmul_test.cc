// MatMul against its definition. Inputs come from a seed that every failure prints.
#include "kernels/api/matmul.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matmul_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::IsClose;
using tests::RandomNormal;
using tests::SameBits;

// One fused multiply-add per term: error at most terms / 2 units of the magnitude in the worst
// case, and the square root of that on random data.
constexpr double kUlps = 16;

// n_out x n_in weights of a type, from normal numbers rounded to it.
class Weights {
 public:
  Weights(int64_t n_out, int64_t n_in, DType type, std::mt19937& random)
      : n_out_(n_out), n_in_(n_in), type_(type), wide_(RandomNormal(n_out * n_in, random)) {
    for (const float w : wide_) {
      if (type == DType::kBF16) narrow_.push_back(cpu::FloatToBf16(w));
      if (type == DType::kF16) narrow_.push_back(cpu::FloatToF16(w));
    }
  }
  TensorView view() const {
    if (type_ == DType::kF32) return TensorView(wide_.data(), {n_out_, n_in_});
    return TensorView(narrow_.data(), type_, {n_out_, n_in_});
  }

 private:
  int64_t n_out_;
  int64_t n_in_;
  DType type_;
  std::vector<float> wide_;
  std::vector<uint16_t> narrow_;
};

std::shared_ptr<const PreparedMatrix> PreparePanels(std::vector<TensorView> weights) {
  auto made = cpu::PrepareMatrix(weights, cpu::Bf16UnitKind::kNone);
  EXPECT_TRUE(made.ok()) << made.status();
  return *made;
}

std::vector<float> Multiply(const std::vector<float>& x, int64_t n_rows, const PreparedMatrix& w,
                            int threads, bool accumulate = false, float y_before = 0) {
  std::vector<float> y(n_rows * w.n_out(), y_before);
  MatMul(TensorView(x.data(), {n_rows, w.n_in()}), w,
         MutableTensorView(y.data(), {n_rows, w.n_out()}), accumulate, Stream::Cpu(threads));
  return y;
}

void ExpectMatchesDefinition(int64_t n_rows, int64_t n_in, const std::vector<int64_t>& n_outs,
                             DType type, bool accumulate, uint32_t seed) {
  SCOPED_TRACE(fmt::format("rows {} in {} out {} x {} type {} accumulate {} seed {}", n_rows, n_in,
                           n_outs[0], n_outs.size(), DTypeName(type), accumulate, seed));
  std::mt19937 random(seed);
  std::vector<Weights> weights;
  std::vector<TensorView> views;
  int64_t n_out = 0;
  for (const int64_t n : n_outs) {
    weights.emplace_back(n, n_in, type, random);
    n_out += n;
  }
  for (const Weights& w : weights) views.push_back(w.view());
  const std::vector<float> x = RandomNormal(n_rows * n_in, random);
  const float before = accumulate ? 3.0f : std::numeric_limits<float>::quiet_NaN();
  const auto matrix = PreparePanels(views);
  const std::vector<float> actual = Multiply(x, n_rows, *matrix, 2, accumulate, before);
  std::vector<float> expected(n_rows * n_out, before);
  std::vector<float> magnitude(expected.size());
  cpu::definition::MatMul(TensorView(x.data(), {n_rows, n_in}), views, accumulate,
                          MutableTensorView(expected.data(), {n_rows, n_out}),
                          MutableTensorView(magnitude.data(), {n_rows, n_out}));
  EXPECT_TRUE(IsClose(TensorView(actual.data(), {n_rows, n_out}),
                      TensorView(expected.data(), {n_rows, n_out}),
                      TensorView(magnitude.data(), {n_rows, n_out}), kUlps));
}

TEST(MatMulTest, MatchesDefinitionOnAllTinyShapes) {
  uint32_t seed = 1;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
    for (int64_t n_rows = 1; n_rows <= 14; ++n_rows)
      for (const int64_t n_in : {1, 2, 7, 8})
        for (const int64_t n_out : {1, 15, 16, 17, 33, 65})
          ExpectMatchesDefinition(n_rows, n_in, {n_out}, type, seed % 2 == 0, seed), ++seed;
}

TEST(MatMulTest, MatchesDefinitionOnShapesOfTheModel) {
  ExpectMatchesDefinition(1, 1024, {384}, DType::kBF16, true, 1);
  ExpectMatchesDefinition(100, 384, {1024, 256, 256}, DType::kBF16, false, 2);
  ExpectMatchesDefinition(197, 128, {512}, DType::kF32, false, 3);
}

TEST(MatMulTest, ARowHasTheSameBitsInEveryBatch) {
  std::mt19937 random(11);
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Weights w(100, 300, type, random);
    const auto matrix = PreparePanels({w.view()});
    const std::vector<float> x = RandomNormal(103 * 300, random);
    const std::vector<float> all = Multiply(x, 103, *matrix, 2);
    for (const int64_t n_rows : {1, 2, 3, 4, 5, 6, 7, 11, 97}) {
      const std::vector<float> some = Multiply(x, n_rows, *matrix, 2);
      EXPECT_TRUE(
          SameBits(TensorView(some.data(), {n_rows, 100}), TensorView(all.data(), {n_rows, 100})))
          << n_rows << " rows";
    }
  }
}

TEST(MatMulTest, SameBitsOnSecondRunAndOnOtherThreadCounts) {
  std::mt19937 random(12);
  const Weights w(700, 64, DType::kBF16, random);
  const auto matrix = PreparePanels({w.view()});
  for (const int64_t n_rows : {1, 5, 130}) {
    const std::vector<float> x = RandomNormal(n_rows * 64, random);
    const std::vector<float> first = Multiply(x, n_rows, *matrix, 2);
    for (const int threads : {2, 1, 3, 7}) {
      const std::vector<float> again = Multiply(x, n_rows, *matrix, threads);
      EXPECT_TRUE(SameBits(TensorView(again.data(), {n_rows, 700}),
                           TensorView(first.data(), {n_rows, 700})))
          << n_rows << " rows, " << threads << " threads";
    }
  }
}

TEST(MatMulTest, NanInOneRowStaysInThatRow) {
  std::mt19937 random(13);
  const Weights w(40, 20, DType::kBF16, random);
  const auto matrix = PreparePanels({w.view()});
  std::vector<float> x = RandomNormal(9 * 20, random);
  const std::vector<float> clean = Multiply(x, 9, *matrix, 1);
  x[4 * 20 + 3] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> poisoned = Multiply(x, 9, *matrix, 1);
  for (int64_t row = 0; row < 9; ++row)
    for (int64_t i = 0; i < 40; ++i) {
      if (row == 4) {
        EXPECT_TRUE(std::isnan(poisoned[row * 40 + i]));
      } else {
        EXPECT_EQ(poisoned[row * 40 + i], clean[row * 40 + i]) << row << " " << i;
      }
    }
}

TEST(MatMulTest, ZerosGiveZeros) {
  const std::vector<float> zero(64 * 32, 0.0f);
  const auto matrix = PreparePanels({TensorView(zero.data(), {64, 32})});
  for (const float y : Multiply(zero, 3, *matrix, 1)) EXPECT_EQ(y, 0.0f);
}

TEST(MatMulTest, BytesAreTwoAWeightForBf16AndFourForF32) {
  std::mt19937 random(14);
  const Weights narrow(64, 32, DType::kBF16, random);
  const Weights wide(64, 32, DType::kF32, random);
  EXPECT_EQ(PreparePanels({narrow.view()})->bytes(), 64u * 32u * 2u);
  EXPECT_EQ(PreparePanels({wide.view()})->bytes(), 64u * 32u * 4u);
  // A stack of both types is held as F32.
  EXPECT_EQ(PreparePanels({narrow.view(), wide.view()})->bytes(), 128u * 32u * 4u);
}

TEST(MatMulTest, StackOfDifferentTypesMatchesDefinition) {
  std::mt19937 random(15);
  const Weights a(20, 30, DType::kBF16, random);
  const Weights b(13, 30, DType::kF32, random);
  const std::vector<TensorView> views = {a.view(), b.view()};
  const std::vector<float> x = RandomNormal(5 * 30, random);
  const std::vector<float> actual = Multiply(x, 5, *PreparePanels(views), 2);
  std::vector<float> expected(5 * 33);
  std::vector<float> magnitude(5 * 33);
  cpu::definition::MatMul(TensorView(x.data(), {5, 30}), views, false,
                          MutableTensorView(expected.data(), {5, 33}),
                          MutableTensorView(magnitude.data(), {5, 33}));
  EXPECT_TRUE(IsClose(TensorView(actual.data(), {5, 33}), TensorView(expected.data(), {5, 33}),
                      TensorView(magnitude.data(), {5, 33}), kUlps));
}

TEST(MatMulTest, UnequalInputsAreRefusedWithBothNumbers) {
  const std::vector<float> w(12);
  const auto made =
      PrepareMatrix({TensorView(w.data(), {3, 4}), TensorView(w.data(), {4, 3})}, Stream::Cpu(1));
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(made.status().message()).find("4 and 3"), std::string::npos);
}

TEST(MatMulTest, WrongTypeRankAndEmptyMatricesAreRefused) {
  const std::vector<float> w(12);
  const Stream stream = Stream::Cpu(1);
  EXPECT_EQ(PrepareMatrix({}, stream).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PrepareMatrix({TensorView(w.data(), {12})}, stream).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PrepareMatrix({TensorView(w.data(), {0, 12})}, stream).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PrepareMatrix({TensorView(w.data(), DType::kI32, {3, 4})}, stream).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Runs where oneDNN may use AVX512_BF16 or AMX. To compare units on one such machine, hide the
// better ones: ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16.
TEST(MatMulBf16UnitTest, MatchesDefinitionOfRoundedInputs) {
  if (cpu::Bf16Unit() == cpu::Bf16UnitKind::kNone)
    GTEST_SKIP() << "this CPU has neither AVX512_BF16 nor AMX";
  std::mt19937 random(16);
  for (const bool accumulate : {false, true}) {
    for (const int64_t n_rows : {9, 64, 257}) {
      SCOPED_TRACE(fmt::format("rows {} accumulate {}", n_rows, accumulate));
      const Weights w(400, 384, DType::kBF16, random);
      const auto made = PrepareMatrix({w.view()}, Stream::Cpu(2));
      ASSERT_TRUE(made.ok()) << made.status();
      std::vector<float> x = RandomNormal(n_rows * 384, random);
      for (float& value : x) value = cpu::Bf16ToFloat(cpu::FloatToBf16(value));
      const std::vector<float> actual = Multiply(x, n_rows, **made, 2, accumulate, 1.0f);
      std::vector<float> expected(n_rows * 400, 1.0f);
      std::vector<float> magnitude(expected.size());
      const TensorView views[] = {w.view()};
      cpu::definition::MatMul(TensorView(x.data(), {n_rows, 384}), views, accumulate,
                              MutableTensorView(expected.data(), {n_rows, 400}),
                              MutableTensorView(magnitude.data(), {n_rows, 400}));
      EXPECT_TRUE(IsClose(TensorView(actual.data(), {n_rows, 400}),
                          TensorView(expected.data(), {n_rows, 400}),
                          TensorView(magnitude.data(), {n_rows, 400}), kUlps));
      EXPECT_TRUE(SameBits(
          TensorView(actual.data(), {n_rows, 400}),
          TensorView(Multiply(x, n_rows, **made, 2, accumulate, 1.0f).data(), {n_rows, 400})));
    }
  }
}

TEST(MatMulDeathTest, WrongWidthAborts) {
  std::mt19937 random(17);
  const Weights w(4, 8, DType::kF32, random);
  const auto matrix = PreparePanels({w.view()});
  std::vector<float> x(9);
  std::vector<float> y(4);
  EXPECT_DEATH(MatMul(TensorView(x.data(), {1, 9}), *matrix, MutableTensorView(y.data(), {1, 4}),
                      false, Stream::Cpu(1)),
               "n_in");
}

}  // namespace
}  // namespace lexico::kernels

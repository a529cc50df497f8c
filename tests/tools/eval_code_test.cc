// lexico-eval code: codes agree with what is written of them, bad files and numbers are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "kernels/api/omp_encode.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_safetensors_writer.h"
#include "tools/eval/code/coded_vectors.h"
#include "worker/model/safetensors.h"

namespace lexico::eval {
namespace {

using testing::HasSubstr;

constexpr int kDim = 16;
constexpr int kAtoms = 64;

std::vector<float> Random(int64_t n_rows, bool unit, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(n_rows * kDim);
  for (float& x : rows) x = normal(random);
  for (int64_t i = 0; unit && i < n_rows; ++i) {
    double square = 0;
    for (int j = 0; j < kDim; ++j) square += rows[i * kDim + j] * rows[i * kDim + j];
    for (int j = 0; j < kDim; ++j) rows[i * kDim + j] /= static_cast<float>(std::sqrt(square));
  }
  return rows;
}

class CodeTest : public testing::Test {
 protected:
  absl::StatusOr<CodedVectors> Code(const std::vector<float>& vectors, int sparsity,
                                    float threshold = 0, int dim = kDim,
                                    const base::CodeForm& form = {}) {
    return CodeVectors({dictionary_.data(), {kAtoms, kDim}},
                       {vectors.data(), {static_cast<int64_t>(vectors.size()) / dim, dim}},
                       {sparsity, form}, threshold, kernels::Stream::Cpu(1));
  }

  const std::vector<float> dictionary_ = Random(kAtoms, true, 1);
  const tests::TempDir dir_;
};

TEST_F(CodeTest, ReconstructionHasTheErrorThatIsReported) {
  const std::vector<float> x = Random(20, false, 2);
  const auto coded = Code(x, 4);
  ASSERT_THAT(coded, tests::IsOk());
  for (int i = 0; i < 20; ++i) {
    double wrong = 0;
    double square = 0;
    for (int j = i * kDim; j < (i + 1) * kDim; ++j) {
      wrong += std::pow(coded->reconstruction[j] - x[j], 2);
      square += std::pow(x[j], 2);
    }
    EXPECT_NEAR(std::sqrt(wrong / square), coded->errors[i], 1e-5) << i;
    EXPECT_GT(coded->errors[i], 0);
  }
  EXPECT_EQ(coded->mean_atoms(), 4);
}

TEST_F(CodeTest, AnAtomIsItsOwnCode) {
  const std::vector<float> x(dictionary_.begin() + 7 * kDim, dictionary_.begin() + 8 * kDim);
  const auto coded = Code(x, 4);
  ASSERT_THAT(coded, tests::IsOk());
  EXPECT_EQ(coded->atoms[0], 7);
  EXPECT_EQ(coded->coef_values[0], 1);
  EXPECT_LT(coded->errors[0], 1e-5);
}

TEST_F(CodeTest, MembersOfTheFamilyAreWrittenAsTheyAreStored) {
  const std::vector<float> x = Random(20, false, 5);
  const auto paper = Code(x, 4);
  const auto four_bits = Code(x, 4, 0, kDim, {4, 0, false});
  const auto with_residual = Code(x, 4, 0, kDim, {4, 2, true});
  ASSERT_THAT(four_bits, tests::IsOk());
  ASSERT_THAT(with_residual, tests::IsOk());
  for (size_t i = 0; i < paper->atoms.size(); ++i) {
    if (four_bits->coef_values[i] == 0) continue;
    EXPECT_EQ(four_bits->atoms[i], paper->atoms[i]);
    EXPECT_NEAR(four_bits->coef_values[i], paper->coef_values[i],
                0.2 + 0.1 * std::abs(paper->coef_values[i]));
    EXPECT_LT(four_bits->coefs[i], 16);
  }
  EXPECT_LT(Summarize(with_residual->errors).mean, 0.5 * Summarize(four_bits->errors).mean);
  const auto no_atoms = Code(x, 0, 0, kDim, {8, 3, false});
  ASSERT_THAT(no_atoms, tests::IsOk());
  EXPECT_EQ(no_atoms->mean_atoms(), 0);
  EXPECT_LT(Summarize(no_atoms->errors).mean, 0.3);
}

TEST_F(CodeTest, AThresholdTakesFewerAtoms) {
  const std::vector<float> x = Random(50, false, 3);
  const auto all = Code(x, 8);
  const auto some = Code(x, 8, 0.4f);
  ASSERT_THAT(all, tests::IsOk());
  ASSERT_THAT(some, tests::IsOk());
  EXPECT_EQ(all->mean_atoms(), 8);
  EXPECT_LT(some->mean_atoms(), 7);
  // Rounding of coefficients comes on top of the threshold.
  EXPECT_LT(Summarize(some->errors).max, 0.45);
}

TEST_F(CodeTest, AZeroVectorHasAnEmptyCode) {
  const auto coded = Code(std::vector<float>(kDim), 4);
  ASSERT_THAT(coded, tests::IsOk());
  EXPECT_EQ(coded->mean_atoms(), 0);
  EXPECT_EQ(coded->errors[0], 0);
  EXPECT_EQ(coded->reconstruction, std::vector<float>(kDim));
}

TEST_F(CodeTest, NumbersThatAreNotFiniteAreNamed) {
  std::vector<float> x = Random(5, false, 4);
  x[3 * kDim + 2] = std::numeric_limits<float>::quiet_NaN();
  const auto coded = Code(x, 4);
  EXPECT_EQ(coded.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(coded.status().message(), HasSubstr("vector 3 is not finite: number 2 is nan"));
}

TEST_F(CodeTest, ShapesThatDoNotFitAreRefused) {
  EXPECT_THAT(Code(std::vector<float>(24), 4, 0, 8).status().message(),
              HasSubstr("vectors have 8 numbers, atoms 16"));
  EXPECT_THAT(Code({}, 4).status().message(), HasSubstr("no vectors"));
  EXPECT_THAT(Code(std::vector<float>(kDim), 17).status().message(),
              HasSubstr("17 atoms a vector; this dictionary allows 1 to 16"));
}

TEST_F(CodeTest, SummaryTakesNearestRanks) {
  std::vector<float> errors;
  for (int i = 100; i >= 1; --i) errors.push_back(static_cast<float>(i));
  const ErrorSummary summary = Summarize(errors);
  EXPECT_DOUBLE_EQ(summary.mean, 50.5);
  EXPECT_EQ(summary.p50, 50);
  EXPECT_EQ(summary.p90, 90);
  EXPECT_EQ(summary.p99, 99);
  EXPECT_EQ(summary.max, 100);
  EXPECT_EQ(Summarize({0.5f}).p99, 0.5);
}

TEST_F(CodeTest, AFileHoldsEverythingInItsType) {
  const auto coded = Code(Random(6, false, 5), 3);
  ASSERT_THAT(coded, tests::IsOk());
  const std::string path = dir_.File("codes.safetensors");
  ASSERT_THAT(WriteCodedVectors(path, *coded), tests::IsOk());
  const auto file = worker::SafetensorsFile::Open(path);
  ASSERT_THAT(file, tests::IsOk());
  const auto& tensors = (*file)->tensors();
  ASSERT_EQ(tensors.size(), 5u);
  EXPECT_EQ(tensors.at("indices").dtype, "U16");
  EXPECT_EQ(tensors.at("indices").shape, (std::vector<int64_t>{6, 3}));
  EXPECT_EQ(0, std::memcmp(tensors.at("indices").bytes.data(), coded->atoms.data(), 36));
  EXPECT_EQ(tensors.at("coefficients").dtype, "U8");
  EXPECT_EQ(0, std::memcmp(tensors.at("coefficients").bytes.data(), coded->coefs.data(), 18));
  EXPECT_EQ(tensors.at("errors").shape, (std::vector<int64_t>{6}));
  const auto back = ReadMatrix(path, "reconstruction");
  ASSERT_THAT(back, tests::IsOk());
  EXPECT_EQ(0, std::memcmp(back->view.data, coded->reconstruction.data(), 6 * kDim * 4));
}

TEST_F(CodeTest, FilesThatCannotBeReadOrWrittenAreNamed) {
  const auto coded = Code(Random(1, false, 5), 3);
  const absl::Status written = WriteCodedVectors("/nonexistent/x", *coded);
  EXPECT_EQ(written.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(written.message(), HasSubstr("/nonexistent/x"));
  EXPECT_THAT(WriteCodedVectors("/dev/full", *coded).message(), HasSubstr("No space left"));

  const std::string path =
      dir_.Write("a.safetensors",
                 tests::SafetensorsWriter().AddF32("layers.0.k", {2, 2, 1}, {1, 2, 3, 4}).Bytes());
  EXPECT_THAT(ReadMatrix(path, "layer.0.k").status().message(), HasSubstr("nearest is layers.0.k"));
  EXPECT_THAT(ReadMatrix(path, "layers.0.k").status().message(), HasSubstr("3 dimensions"));
  EXPECT_THAT(ReadMatrix("/nonexistent/x", "a").status().message(), HasSubstr("/nonexistent/x"));
}

}  // namespace
}  // namespace lexico::eval

#include "kernels/api/dictionary.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/omp_gram.h"
#include "tests/kernels/code_fixtures.h"

namespace lexico::kernels {
namespace {

using testing::HasSubstr;

// Unit rows along the axes, so that a changed element is easy to place.
std::vector<float> AxisAtoms(int n_atoms, int head_dim) {
  std::vector<float> atoms(static_cast<size_t>(n_atoms) * head_dim, 0.0f);
  for (int a = 0; a < n_atoms; ++a) atoms[a * head_dim + a % head_dim] = 1;
  return atoms;
}

std::string ErrorOf(TensorView view) {
  const auto prepared = PrepareDictionary(view, Stream::Cpu(1));
  if (prepared.ok()) return "OK";
  EXPECT_EQ(prepared.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(prepared.status().message());
}

TEST(DictionaryTest, RowsAreRenormalisedToOne) {
  std::vector<float> atoms = AxisAtoms(16, 4);
  for (float& value : atoms) value *= 1.005f;
  const auto prepared = PrepareDictionary(TensorView(atoms.data(), {16, 4}), Stream::Cpu(1));
  ASSERT_TRUE(prepared.ok());
  EXPECT_EQ((*prepared)->n_atoms(), 16);
  EXPECT_EQ((*prepared)->head_dim(), 4);
  EXPECT_GE((*prepared)->bytes(), 16 * 4 * sizeof(float));
  const cpu::Dictionary& dictionary = cpu::AsCpu(**prepared);
  for (int a = 0; a < 16; ++a) EXPECT_EQ(dictionary.row(a)[a % 4], 1.0f);
}

TEST(DictionaryTest, HalfPrecisionIsRead) {
  // 0x3c00 is 1, 0xbc00 is -1, 0x0001 is 2^-24.
  std::vector<uint16_t> halves(16 * 2, 0);
  for (int a = 0; a < 16; ++a) halves[a * 2 + a % 2] = a % 3 == 0 ? 0xbc00 : 0x3c00;
  halves[1] = 0x0001;
  const auto prepared =
      PrepareDictionary(TensorView(halves.data(), DType::kF16, {16, 2}), Stream::Cpu(1));
  ASSERT_TRUE(prepared.ok());
  const cpu::Dictionary& dictionary = cpu::AsCpu(**prepared);
  EXPECT_EQ(dictionary.row(0)[0], -1.0f);
  EXPECT_EQ(dictionary.row(0)[1], 0x1p-24f);
  EXPECT_EQ(dictionary.row(1)[1], 1.0f);
}

double GramEntry(const cpu::Dictionary& dictionary, int a, int b) {
  const int half = cpu::kChunkAtoms / 2;
  const int place = b / cpu::kChunkAtoms * half + b % half;
  const int16_t word = dictionary.gram()[a * (dictionary.padded_atoms() / 2) + place];
  const bool second = b % cpu::kChunkAtoms >= half;
  return (second ? static_cast<int16_t>(word << 8) : word) / cpu::kGramOne;
}

TEST(DictionaryTest, FormsHoldTheSameNumbers) {
  std::mt19937 random(1);
  const int head_dim = 21;
  const int n_atoms = 70;
  const std::vector<float> atoms = tests::RandomAtoms(n_atoms, head_dim, random);
  const auto prepared = tests::Prepare(atoms, head_dim);
  const cpu::Dictionary& dictionary = cpu::AsCpu(*prepared);
  ASSERT_NE(dictionary.gram(), nullptr);
  for (int a = 0; a < n_atoms; ++a) {
    const int panel = a / cpu::kPanelAtoms;
    const int place = a % cpu::kPanelAtoms;
    for (int i = 0; i < head_dim; ++i) {
      const float value = dictionary.row(a)[i];
      EXPECT_NEAR(value, atoms[a * head_dim + i], 1e-6f);
      const int pair = (panel * dictionary.n_pairs() + i / 2) * cpu::kPanelAtoms + place;
      EXPECT_NEAR(dictionary.quantized()[pair * 2 + i % 2], value * cpu::kQuantizedOne, 0.51);
    }
    for (int i = head_dim; i < dictionary.row_stride(); ++i) EXPECT_EQ(dictionary.row(a)[i], 0);
    for (int b = 0; b < n_atoms; ++b) {
      double product = 0;
      for (int i = 0; i < head_dim; ++i) product += dictionary.row(a)[i] * dictionary.row(b)[i];
      EXPECT_NEAR(GramEntry(dictionary, a, b), product, cpu::GramError(head_dim));
    }
  }
}

TEST(DictionaryTest, GramMatrixIsKeptWithinItsLimitOnly) {
  std::mt19937 random(2);
  const std::vector<float> atoms = tests::RandomAtoms(256, 8, random);
  const TensorView view(atoms.data(), {256, 8});
  const size_t gram_bytes = 256 * 256;
  const auto with = PrepareDictionary(view, Stream::Cpu(1), gram_bytes);
  const auto without = PrepareDictionary(view, Stream::Cpu(1), gram_bytes - 1);
  EXPECT_NE(cpu::AsCpu(**with).gram(), nullptr);
  EXPECT_EQ(cpu::AsCpu(**without).gram(), nullptr);
  EXPECT_EQ((*with)->bytes(), (*without)->bytes() + gram_bytes);
}

TEST(DictionaryTest, ShapesOutsideTheLimitsAreRefused) {
  const std::vector<float> atoms(20 * 300, 0.1f);
  EXPECT_THAT(ErrorOf(TensorView(atoms.data(), {15, 4})), HasSubstr("15 atoms; 16 to 8192"));
  EXPECT_THAT(ErrorOf(TensorView(atoms.data(), {16, 257})), HasSubstr("head_dim 257; 1 to 256"));
  EXPECT_THAT(ErrorOf(TensorView(atoms.data(), {16, 0})), HasSubstr("head_dim 0"));
  EXPECT_THAT(ErrorOf(TensorView(atoms.data(), {64})), HasSubstr("rank 1"));
  EXPECT_THAT(ErrorOf(TensorView(nullptr, DType::kF32, {8193, 4})), HasSubstr("8193 atoms"));
}

TEST(DictionaryTest, OtherTypesAreRefusedByName) {
  const std::vector<int32_t> atoms(16 * 4, 1);
  EXPECT_THAT(ErrorOf(TensorView(atoms.data(), {16, 4})), HasSubstr("type I32"));
}

TEST(DictionaryTest, NonFiniteValuesAreRefusedByPlace) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> atoms = AxisAtoms(16, 4);
    atoms[5 * 4 + 2] = bad;
    EXPECT_THAT(ErrorOf(TensorView(atoms.data(), {16, 4})), HasSubstr("atom 5 component 2"));
  }
}

TEST(DictionaryTest, RowsFarFromNormOneAreRefusedWithTheirNorm) {
  std::vector<float> atoms = AxisAtoms(16, 4);
  atoms[7 * 4 + 3] = 0.98f;
  EXPECT_THAT(ErrorOf(TensorView(atoms.data(), {16, 4})), HasSubstr("atom 7 has norm 0.98"));
  atoms[7 * 4 + 3] = 0.0f;
  EXPECT_THAT(ErrorOf(TensorView(atoms.data(), {16, 4})), HasSubstr("atom 7 has norm 0"));
}

}  // namespace
}  // namespace lexico::kernels

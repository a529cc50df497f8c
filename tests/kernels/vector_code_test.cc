// The definition of codes and the op that stores them. Inputs come from seeds that failures print.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/api/quantize_codes.h"
#include "kernels/api/residual.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/vector_code_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_ops.h"

namespace lexico::kernels::definition {
namespace {

using tests::RandomNormal;

VectorCode Code(int sparsity, int coefficient_bits, int residual_bits, bool unbiased) {
  return {sparsity, {coefficient_bits, residual_bits, unbiased}};
}

// Every kind of member, with few and many atoms.
std::vector<VectorCode> AllCodes() {
  std::vector<VectorCode> codes;
  for (const int sparsity : {0, 1, 2, 5, 16}) {
    for (const int coefficient_bits : {4, 8}) {
      if (sparsity == 0 && coefficient_bits == 4) continue;
      for (int residual_bits = sparsity == 0 ? 1 : 0; residual_bits <= 3; ++residual_bits) {
        for (const bool unbiased : {false, true}) {
          codes.push_back(Code(sparsity, coefficient_bits, residual_bits, unbiased));
        }
      }
    }
  }
  return codes;
}

std::string Text(const VectorCode& code) {
  return fmt::format("{} atoms of {} bits, residual {}{}", code.sparsity,
                     code.form.coefficient_bits, code.form.residual_bits,
                     code.form.unbiased ? " unbiased" : "");
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

std::vector<double> Minus(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> rest(a);
  for (size_t i = 0; i < a.size(); ++i) rest[i] -= b[i];
  return rest;
}

double Norm(const std::vector<double>& a) { return std::sqrt(Dot(a, a)); }

std::vector<double> Widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }

// A dictionary, and vectors with their pursuits.
struct Coder {
  Coder(int dim, uint32_t seed)
      : head_dim(dim), random(seed), dictionary(tests::RandomDictionary(64, dim, random)) {}

  CodedVector Encode(const VectorCode& code, const std::vector<float>& x) const {
    std::vector<uint16_t> atoms(code.sparsity);
    std::vector<uint8_t> coefs(code.sparsity);
    std::vector<float> coefficients(code.sparsity);
    float error = 0;
    if (code.sparsity > 0) {
      OmpEncode({.x = {x.data(), {1, head_dim}},
                 .dictionary = dictionary.get(),
                 .sparsity = code.sparsity,
                 .atoms = {atoms.data(), {1, code.sparsity}},
                 .coefs = {coefs.data(), {1, code.sparsity}},
                 .rel_error = {&error, {1}},
                 .coefficients = {coefficients.data(), {1, code.sparsity}}},
                Stream::Cpu(1));
    }
    return EncodeVector(code, head_dim, &cpu::AsCpu(*dictionary), x.data(), atoms.data(),
                        coefficients.data());
  }
  std::vector<double> Decode(const VectorCode& code, const CodedVector& vector) const {
    return DecodeVector(code, head_dim, &cpu::AsCpu(*dictionary), vector).x;
  }
  // Of the atoms alone.
  std::vector<double> AtomPart(VectorCode code, const CodedVector& vector) const {
    code.form.residual_bits = 0;
    return Decode(code, vector);
  }

  int head_dim;
  std::mt19937 random;
  std::shared_ptr<const PreparedDictionary> dictionary;
};

TEST(VectorCodeTest, BytesAreThoseOfTheParts) {
  EXPECT_EQ(Code(16, 8, 0, false).bytes(128), 48u);
  EXPECT_EQ(Code(16, 4, 0, true).bytes(128), 34u);
  EXPECT_EQ(Code(24, 4, 0, true).bytes(128), 50u);
  EXPECT_EQ(Code(8, 4, 0, false).bytes(128), 18u);
  EXPECT_EQ(Code(4, 4, 1, false).bytes(128), 28u);
  EXPECT_EQ(Code(2, 4, 2, true).bytes(128), 40u);
  EXPECT_EQ(Code(4, 4, 2, true).bytes(128), 44u);
  EXPECT_EQ(Code(8, 4, 2, true).bytes(128), 52u);
  EXPECT_EQ(Code(0, 8, 1, false).bytes(128), 18u);
  EXPECT_EQ(Code(0, 8, 2, true).bytes(128), 34u);
  EXPECT_EQ(Code(0, 8, 3, true).bytes(128), 50u);
  EXPECT_EQ(Code(3, 8, 1, false).bytes(8), 12u);
  EXPECT_EQ(Code(3, 8, 1, false).block_bytes(32, 8), 32 * 12u);
}

TEST(VectorCodeTest, EveryLevelIsASumOfItsTerms) {
  for (int bits = 1; bits <= 3; ++bits) {
    const ResidualLevels levels = LevelsOf(bits);
    for (int rank = 0; rank < levels.n_magnitudes; ++rank) {
      const double high = bits == 3 ? (rank / 2 == 1 ? 1 : -1) : (rank == 1 ? 1 : -1);
      const double low = rank % 2 == 1 ? 1 : -1;
      const double terms[] = {1, high, low, high * low};
      double sum = 0;
      for (int p = 0; p < levels.n_terms; ++p) sum += levels.factors[p] * terms[p];
      EXPECT_NEAR(sum, levels.magnitudes[rank], 1e-15) << bits << " " << rank;
    }
  }
}

// The levels are the means of the normal numbers nearest to them, so what is left of one has the
// variance 1 - E[l^2].
TEST(VectorCodeTest, LevelsHaveTheErrorOfLloydAndMax) {
  const double errors[] = {0.3634, 0.1175, 0.03454};
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for (int bits = 1; bits <= 3; ++bits) {
    const ResidualLevels levels = LevelsOf(bits);
    double sum = 0;
    constexpr int kDraws = 200000;
    for (int i = 0; i < kDraws; ++i) {
      const double z = std::abs(normal(random));
      double best = 1e9;
      for (int m = 0; m < levels.n_magnitudes; ++m) {
        best = std::min(best, std::abs(z - levels.magnitudes[m]));
      }
      sum += best * best;
    }
    EXPECT_NEAR(sum / kDraws, errors[bits - 1], 0.02 * errors[bits - 1]);
  }
}

TEST(VectorCodeTest, RotationIsOrthogonalAndComesBack) {
  std::mt19937 random(2);
  for (const int dim : {8, 16, 128, 256}) {
    const std::vector<double> x = Widen(RandomNormal(dim, random));
    std::vector<double> z = x;
    Rotate(z);
    EXPECT_NEAR(Norm(z), Norm(x), 1e-12 * Norm(x));
    EXPECT_GT(Norm(Minus(z, x)), 0.1 * Norm(x));
    RotateBack(z);
    EXPECT_LT(Norm(Minus(z, x)), 1e-13 * Norm(x));
  }
}

TEST(VectorCodeTest, WhatIsStoredIsLoaded) {
  std::mt19937 random(3);
  for (const int dim : {8, 128}) {
    for (const VectorCode& code : AllCodes()) {
      SCOPED_TRACE(fmt::format("{} head_dim {}", Text(code), dim));
      constexpr int kVectors = 4;
      std::vector<uint8_t> block(code.block_bytes(kVectors, dim), 0xee);
      std::vector<CodedVector> vectors(kVectors);
      for (int t = 0; t < kVectors; ++t) {
        CodedVector& vector = vectors[t];
        for (int j = 0; j < code.sparsity; ++j) {
          vector.atoms[j] = static_cast<uint16_t>(random());
          if (!code.is_packed()) vector.coefs[j] = static_cast<uint8_t>(random());
        }
        if (code.is_packed()) vector.scale = static_cast<uint16_t>(random());
        if (code.has_residual()) vector.residual_scale = static_cast<uint16_t>(random());
        for (size_t i = 0; i < code.residual_bytes(dim); ++i) {
          vector.residual[i] = static_cast<uint8_t>(random());
        }
        StoreVector(code, dim, vector, block.data(), kVectors, t);
      }
      for (int t = 0; t < kVectors; ++t) {
        const CodedVector loaded = LoadVector(code, dim, block.data(), kVectors, t);
        EXPECT_EQ(loaded.atoms, vectors[t].atoms);
        EXPECT_EQ(loaded.coefs, vectors[t].coefs);
        EXPECT_EQ(loaded.scale, vectors[t].scale);
        EXPECT_EQ(loaded.residual_scale, vectors[t].residual_scale);
        EXPECT_EQ(loaded.residual, vectors[t].residual);
      }
    }
  }
}

// Residual bits shrink what the atoms left by the known factor of their levels.
TEST(VectorCodeTest, ErrorsAreThoseOfTheResidualBits) {
  const double expected[] = {1, 0.603, 0.343, 0.186};
  Coder coder(128, 4);
  for (const VectorCode& code : AllCodes()) {
    if (code.form.unbiased) continue;
    SCOPED_TRACE(Text(code));
    double sum = 0;
    constexpr int kVectors = 50;
    for (int i = 0; i < kVectors; ++i) {
      const std::vector<float> x = RandomNormal(128, coder.random, 3.0f);
      const CodedVector vector = coder.Encode(code, x);
      sum += Norm(Minus(Widen(x), coder.Decode(code, vector))) /
             Norm(Minus(Widen(x), coder.AtomPart(code, vector)));
    }
    EXPECT_NEAR(sum / kVectors, expected[code.form.residual_bits], 0.02);
  }
}

TEST(VectorCodeTest, TheScaleIsOfLeastErrorOrUnbiased) {
  Coder coder(64, 5);
  for (const VectorCode& code : AllCodes()) {
    if (!code.has_residual()) continue;
    SCOPED_TRACE(Text(code));
    const std::vector<float> x = RandomNormal(64, coder.random);
    const CodedVector vector = coder.Encode(code, x);
    const std::vector<double> rest = Minus(Widen(x), coder.AtomPart(code, vector));
    const std::vector<double> coded =
        Minus(coder.Decode(code, vector), coder.AtomPart(code, vector));
    // Rounding to FP16 moves a scale by 2^-11 at most.
    const double squares = code.form.unbiased ? Dot(rest, rest) : Dot(coded, coded);
    EXPECT_NEAR(Dot(rest, coded), squares, 0x1p-10 * squares);
  }
}

TEST(VectorCodeTest, UnbiasedAtomsAloneAreUnshrunk) {
  Coder coder(64, 6);
  for (const int coefficient_bits : {4, 8}) {
    const VectorCode code = Code(16, coefficient_bits, 0, true);
    const std::vector<float> x = RandomNormal(64, coder.random);
    const double squares = Dot(Widen(x), Widen(x));
    const double product = Dot(coder.Decode(code, coder.Encode(code, x)), Widen(x));
    // FP8 rounds each coefficient by up to a sixteenth of it, the 4-bit scale is exact but for
    // FP16.
    EXPECT_NEAR(product, squares, (coefficient_bits == 4 ? 1e-3 : 0.05) * squares);
    VectorCode plain = code;
    plain.form.unbiased = false;
    EXPECT_LT(Dot(coder.Decode(plain, coder.Encode(plain, x)), Widen(x)), 0.97 * squares);
  }
  // Of a code that has little of the vector the factor is bounded.
  const std::vector<float> x = RandomNormal(64, coder.random);
  const VectorCode one = Code(1, 4, 0, true);
  VectorCode plain = one;
  plain.form.unbiased = false;
  EXPECT_NEAR(Norm(coder.Decode(one, coder.Encode(one, x))),
              1.5 * Norm(coder.Decode(plain, coder.Encode(plain, x))), 1e-2);
}

TEST(VectorCodeTest, FourBitCoefficientsKeepTheLargestAndAreWithinHalfAStep) {
  Coder coder(64, 7);
  const VectorCode code = Code(3, 4, 0, false);
  const cpu::Dictionary& dictionary = cpu::AsCpu(*coder.dictionary);
  const std::vector<float> x(64, 1.0f);
  const uint16_t atoms[] = {5, 63, 9};
  const float coefficients[] = {1.5f, -8.0f, 0.49f};
  const CodedVector vector = EncodeVector(code, 64, &dictionary, x.data(), atoms, coefficients);
  EXPECT_EQ(cpu::F16ToFloat(vector.scale), 1.0f);
  EXPECT_EQ(vector.atoms[0], 5 << 4 | 2);  // 1.5 to the even neighbour
  EXPECT_EQ(vector.atoms[1], 63 << 4 | 8);
  EXPECT_EQ(vector.atoms[2], 0);  // adds nothing, so it is the unused place
  const float positive[] = {-1.0f, 8.0f, 7.9f};
  const CodedVector other = EncodeVector(code, 64, &dictionary, x.data(), atoms, positive);
  EXPECT_EQ(cpu::F16ToFloat(other.scale), -1.0f);
  EXPECT_EQ(other.atoms[0], 5 << 4 | 1);
  EXPECT_EQ(other.atoms[1], 63 << 4 | 8);
  EXPECT_EQ(other.atoms[2], 9 << 4 | 8);
}

TEST(VectorCodeTest, ZeroTinyAndHugeVectorsHaveFiniteCodes) {
  Coder coder(16, 8);
  for (const VectorCode& code : AllCodes()) {
    SCOPED_TRACE(Text(code));
    for (const float size : {0.0f, 1e-44f, 1e-30f, 1e-6f, 1e4f, 1e30f, 3e38f}) {
      std::vector<float> x(16, size);
      x[3] = -size;
      const std::vector<double> decoded = coder.Decode(code, coder.Encode(code, x));
      for (const double value : decoded) {
        EXPECT_TRUE(std::isfinite(value)) << size;
        if (size == 0) {
          EXPECT_EQ(value, 0);
        }
      }
      // No code makes more of a vector than half again.
      if (size <= 1e4f) {
        EXPECT_LE(Norm(decoded), 4.0 * size * 1.6 + 1e-6) << size;
      }
    }
  }
}

// Both devices: bytes are those of the definition but, on a GPU, for the order of a vector's codes.
class QuantizeCodesTest : public tests::DeviceTest {
 protected:
  static constexpr int kHeads = 2;
  static constexpr int64_t kPages = 3;
  static constexpr size_t kOffset = 64;

  // Vectors of `tokens` tokens a page, with their pursuits.
  struct Problem {
    Problem(int dim, int page_tokens, uint32_t seed, float size = 1)
        : coder(dim, seed),
          tokens(page_tokens),
          n_vectors(kPages * page_tokens * kHeads),
          x(RandomNormal(n_vectors * dim, coder.random, size)) {}

    const float* vector(int64_t i) const { return x.data() + i * coder.head_dim; }

    Coder coder;
    int tokens;
    int64_t n_vectors;
    std::vector<float> x;
    std::vector<uint16_t> atoms;
    std::vector<float> coefficients;
  };

  static PageLayout Layout(const Problem& problem, const VectorCode& code) {
    return {.n_kv_heads = kHeads,
            .head_dim = problem.coder.head_dim,
            .page_tokens = problem.tokens,
            .sparsity_k = code.sparsity,
            .sparsity_v = 3,
            .form_k = code.form,
            .form_v = {}};
  }

  struct Result {
    std::vector<std::vector<uint8_t>> pages;
    std::vector<float> errors;
    int64_t n_non_finite = 0;
  };
  static void Pursue(Problem& problem, const VectorCode& code) {
    const int64_t n = problem.n_vectors;
    problem.atoms.assign(n * code.sparsity, 0);
    problem.coefficients.assign(n * code.sparsity, 0);
    if (code.sparsity == 0) return;
    std::vector<uint8_t> coefs(n * code.sparsity);
    std::vector<float> rel_error(n);
    OmpEncode({.x = {problem.x.data(), {n, problem.coder.head_dim}},
               .dictionary = problem.coder.dictionary.get(),
               .sparsity = code.sparsity,
               .atoms = {problem.atoms.data(), {n, code.sparsity}},
               .coefs = {coefs.data(), {n, code.sparsity}},
               .rel_error = {rel_error.data(), {n}},
               .coefficients = {problem.coefficients.data(), {n, code.sparsity}}},
              Stream::Cpu(1));
  }
  static Result Run(Problem& problem, const VectorCode& code, const tests::DeviceOps& ops) {
    Pursue(problem, code);
    const int64_t n = problem.n_vectors;
    const PageLayout layout = Layout(problem, code);
    Result result{.pages = {}, .errors = std::vector<float>(kPages, -1)};
    std::vector<uint8_t*> pointers;
    for (int64_t p = 0; p < kPages; ++p) {
      result.pages.emplace_back(kOffset + layout.payload_bytes(), 0xee);
    }
    for (auto& page : result.pages) pointers.push_back(page.data());
    ops.QuantizeCodes({.layout = layout,
                       .value = false,
                       .dictionary = code.sparsity > 0 ? problem.coder.dictionary.get() : nullptr,
                       .x = {problem.x.data(), {n, problem.coder.head_dim}},
                       .atoms = {problem.atoms.data(), {n, code.sparsity}},
                       .coefficients = {problem.coefficients.data(), {n, code.sparsity}},
                       .pages = pointers.data(),
                       .page_offset = kOffset,
                       .page_error = result.errors.data(),
                       .n_non_finite = &result.n_non_finite});
    return result;
  }

  // The same, with the codes of every vector in one order.
  static std::vector<uint8_t> InOrder(const Problem& problem, const VectorCode& code,
                                      const std::vector<uint8_t>& page) {
    std::vector<uint8_t> ordered = page;
    const PageLayout layout = Layout(problem, code);
    for (int i = 0; i < problem.tokens * kHeads; ++i) {
      uint8_t* block = ordered.data() + kOffset + layout.head_offset(false, i % kHeads);
      CodedVector vector = LoadVector(code, layout.head_dim, block, problem.tokens, i / kHeads);
      std::vector<std::pair<uint16_t, uint8_t>> codes;
      for (int j = 0; j < code.sparsity; ++j) codes.emplace_back(vector.atoms[j], vector.coefs[j]);
      std::sort(codes.begin(), codes.end());
      for (int j = 0; j < code.sparsity; ++j) {
        vector.atoms[j] = codes[j].first;
        vector.coefs[j] = codes[j].second;
      }
      StoreVector(code, layout.head_dim, vector, block, problem.tokens, i / kHeads);
    }
    return ordered;
  }

  static void ExpectPagesOfTheDefinition(Problem& problem, const VectorCode& code,
                                         const tests::DeviceOps& ops, bool any_order) {
    const Result result = Run(problem, code, ops);
    EXPECT_EQ(result.n_non_finite, 0);
    const PageLayout layout = Layout(problem, code);
    const cpu::Dictionary& dictionary = cpu::AsCpu(*problem.coder.dictionary);
    for (int64_t p = 0; p < kPages; ++p) {
      std::vector<uint8_t> expected(kOffset + layout.payload_bytes(), 0xee);
      double errors = 0;
      for (int i = 0; i < problem.tokens * kHeads; ++i) {
        const int64_t at = p * problem.tokens * kHeads + i;
        const float* x = problem.vector(at);
        const CodedVector vector = EncodeVector(code, layout.head_dim, &dictionary, x,
                                                problem.atoms.data() + at * code.sparsity,
                                                problem.coefficients.data() + at * code.sparsity);
        StoreVector(code, layout.head_dim, vector,
                    expected.data() + kOffset + layout.head_offset(false, i % kHeads),
                    problem.tokens, i / kHeads);
        const std::vector<double> exact(x, x + layout.head_dim);
        errors += Norm(exact) == 0
                      ? 0
                      : Norm(Minus(exact, problem.coder.Decode(code, vector))) / Norm(exact);
      }
      if (any_order) {
        EXPECT_EQ(InOrder(problem, code, result.pages[p]), InOrder(problem, code, expected));
      } else {
        EXPECT_EQ(result.pages[p], expected);
      }
      EXPECT_NEAR(result.errors[p], errors / (problem.tokens * kHeads), 1e-6);
    }
  }
};
LEXICO_TEST_ON_ALL_DEVICES(QuantizeCodesTest);

TEST_P(QuantizeCodesTest, PagesHoldTheVectorsOfTheDefinition) {
  for (const VectorCode& code : AllCodes()) {
    SCOPED_TRACE(Text(code));
    Problem problem(16, 4, 9);
    ExpectPagesOfTheDefinition(problem, code, Ops(), on_gpu());
  }
}

TEST_P(QuantizeCodesTest, PagesHoldTheVectorsOfTheDefinitionOnModelShapes) {
  for (const int dim : {8, 64, 128, 256}) {
    for (const VectorCode& code : {Code(2, 4, 2, true), Code(4, 4, 1, false), Code(8, 8, 3, true),
                                   Code(0, 8, 3, false), Code(7, 4, 0, true)}) {
      SCOPED_TRACE(fmt::format("{} head_dim {}", Text(code), dim));
      Problem problem(dim, 34, 10);
      ExpectPagesOfTheDefinition(problem, code, Ops(), on_gpu());
    }
  }
  Problem problem(96, 4, 11);  // atoms alone
  for (const VectorCode& code : {Code(40, 4, 0, false), Code(40, 8, 0, true)}) {
    ExpectPagesOfTheDefinition(problem, code, Ops(), on_gpu());
  }
}

TEST_P(QuantizeCodesTest, ZeroTinyAndHugeVectorsAreThoseOfTheDefinition) {
  for (const VectorCode& code :
       {Code(3, 4, 2, false), Code(3, 8, 1, true), Code(3, 4, 0, true), Code(0, 8, 3, true)}) {
    for (const float size : {0.0f, 1e-30f, 1e-6f, 1e4f, 1e30f}) {
      SCOPED_TRACE(fmt::format("{} size {}", Text(code), size));
      Problem problem(64, 4, 12, size == 0 ? 1 : size);
      if (size == 0) std::fill(problem.x.begin(), problem.x.end(), 0.0f);
      ExpectPagesOfTheDefinition(problem, code, Ops(), on_gpu());
    }
  }
}

TEST_P(QuantizeCodesTest, SameBytesWithOtherThreadCounts) {
  const VectorCode code = Code(4, 4, 1, false);
  Problem problem(16, 4, 9);
  EXPECT_EQ(Run(problem, code, Ops(3)).pages, Run(problem, code, Ops(1)).pages);
}

TEST_P(QuantizeCodesTest, VectorsThatAreNotFiniteAreCountedAndStoredAsZero) {
  const VectorCode code = Code(2, 4, 2, true);
  Problem problem(16, 4, 9);
  const Result clean = Run(problem, code, Ops());
  problem.x[5 * 16 + 3] = std::numeric_limits<float>::quiet_NaN();
  problem.x[6 * 16] = -std::numeric_limits<float>::infinity();
  const Result result = Run(problem, code, Ops());
  EXPECT_EQ(result.n_non_finite, 2);
  EXPECT_TRUE(std::isnan(result.errors[0]));
  EXPECT_EQ(result.errors[1], clean.errors[1]);
  EXPECT_EQ(result.pages[1], clean.pages[1]);
  const PageLayout layout = Layout(problem, code);
  for (const int i : {5, 6}) {
    const DecodedVector zero =
        DecodeVector(layout, false, i % kHeads, i / kHeads, result.pages[0].data() + kOffset,
                     &cpu::AsCpu(*problem.coder.dictionary));
    EXPECT_EQ(zero.x, std::vector<double>(16, 0.0));
  }
}

TEST(QuantizeCodesDeathTest, MalformedArgumentsDie) {
  float x[12 * 4] = {};
  uint8_t page[1024];
  uint8_t* pages[] = {page};
  float error = 0;
  int64_t n = 0;
  PageLayout layout{.n_kv_heads = 1,
                    .head_dim = 12,
                    .page_tokens = 4,
                    .form_k = {.residual_bits = 1},
                    .form_v = {.residual_bits = 1}};
  const auto run = [&] {
    QuantizeCodes({.layout = layout,
                   .x = {x, {4, 12}},
                   .atoms = {},
                   .coefficients = {},
                   .pages = pages,
                   .page_error = &error,
                   .n_non_finite = &n},
                  Stream::Cpu(1));
  };
  EXPECT_DEATH(run(), "CanRotate");
  layout.form_k = {};
  EXPECT_DEATH(run(), "is_empty|is_dense");
}

}  // namespace
}  // namespace lexico::kernels::definition

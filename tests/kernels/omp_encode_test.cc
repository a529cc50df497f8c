// Each property is stated once. Inputs come from a seed that every failure prints.
#include "kernels/api/omp_encode.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "kernels/api/elementwise.h"
#include "kernels/cpu/omp_encode_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_ops.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::Prepare;
using tests::RandomAtoms;
using tests::RandomDictionary;
using tests::RandomNormal;
using tests::SameBits;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Codes {
  int sparsity = 0;
  std::vector<uint16_t> atoms;
  std::vector<uint8_t> coefs;
  std::vector<float> rel_error;
  int64_t n_non_finite = 0;

  int64_t n_vectors() const { return static_cast<int64_t>(rel_error.size()); }
  // Atoms of vector i whose stored coefficient is not 0.
  std::vector<int> AtomsOf(int64_t i) const {
    std::vector<int> used;
    for (int j = 0; j < sparsity; ++j) {
      if (E4m3ToFloat(coefs[i * sparsity + j]) != 0) used.push_back(atoms[i * sparsity + j]);
    }
    return used;
  }
};

OmpEncodeArgs ArgsFor(const std::vector<float>& x, const PreparedDictionary& dictionary,
                      int sparsity, Codes& codes) {
  const int64_t n = static_cast<int64_t>(x.size()) / dictionary.head_dim();
  codes.sparsity = sparsity;
  // Garbage, so that a place that is not written shows.
  codes.atoms.assign(n * sparsity, 0xffff);
  codes.coefs.assign(n * sparsity, 0x7f);
  codes.rel_error.assign(n, -1);
  codes.n_non_finite = 0;
  OmpEncodeArgs args;
  args.x = TensorView(x.data(), {n, dictionary.head_dim()});
  args.dictionary = &dictionary;
  args.sparsity = sparsity;
  args.atoms = MutableTensorView(codes.atoms.data(), {n, sparsity});
  args.coefs = MutableTensorView(codes.coefs.data(), {n, sparsity});
  args.rel_error = MutableTensorView(codes.rel_error.data(), {n});
  args.n_non_finite = &codes.n_non_finite;
  return args;
}

void ExpectSameBits(const Codes& a, const Codes& b) {
  ASSERT_EQ(a.n_vectors(), b.n_vectors());
  EXPECT_EQ(a.atoms, b.atoms);
  EXPECT_EQ(a.coefs, b.coefs);
  EXPECT_TRUE(SameBits(TensorView(a.rel_error.data(), {a.n_vectors()}),
                       TensorView(b.rel_error.data(), {b.n_vectors()})));
}

// Combinations of a few atoms with noise, as keys and values are.
std::vector<float> NoisyCombinations(const std::vector<float>& atoms, int head_dim, int64_t n,
                                     float noise, std::mt19937& random) {
  std::vector<float> x = RandomNormal(n * head_dim, random, noise);
  const int n_atoms = static_cast<int>(atoms.size()) / head_dim;
  for (int64_t v = 0; v < n; ++v) {
    for (int j = 0; j < 6; ++j) {
      const std::vector<float> c = RandomNormal(1, random);
      const float* atom = atoms.data() + random() % n_atoms * head_dim;
      for (int i = 0; i < head_dim; ++i) x[v * head_dim + i] += c[0] * atom[i];
    }
  }
  return x;
}

// A dictionary as files have them: rows of F16 whose norms are 1 only nearly.
struct HalfRows {
  std::vector<uint16_t> halves;
  std::vector<float> atoms;  // the same numbers
  int64_t head_dim = 0;
  std::shared_ptr<const PreparedDictionary> prepared;

  TensorView view() const {
    const auto n_atoms = static_cast<int64_t>(halves.size()) / head_dim;
    return TensorView(halves.data(), DType::kF16, {n_atoms, head_dim});
  }
};

HalfRows RandomHalfRows(int n_atoms, int head_dim, std::mt19937& random) {
  HalfRows rows;
  rows.head_dim = head_dim;
  rows.atoms = RandomAtoms(n_atoms, head_dim, random);
  for (int a = 0; a < n_atoms; ++a) {
    const float norm = 0.992f + 0.016f * static_cast<float>(random() % 1000) / 1000;
    for (int i = 0; i < head_dim; ++i) rows.atoms[a * head_dim + i] *= norm;
  }
  rows.halves.resize(rows.atoms.size());
  const MutableTensorView halves(rows.halves.data(), DType::kF16, {n_atoms, head_dim});
  const MutableTensorView atoms(rows.atoms.data(), {n_atoms, head_dim});
  Convert(atoms, halves, Stream::Cpu(1));
  Convert(halves, atoms, Stream::Cpu(1));
  rows.prepared = *PrepareDictionary(rows.view(), Stream::Cpu(1));
  return rows;
}

class OmpEncodeTest : public tests::DeviceTest {
 protected:
  Codes Encode(const std::vector<float>& x, const PreparedDictionary& dictionary, int sparsity,
               float error_threshold = 0, int threads = 1) const {
    Codes codes;
    OmpEncodeArgs args = ArgsFor(x, dictionary, sparsity, codes);
    args.error_threshold = error_threshold;
    Ops(threads).OmpEncode(args);
    return codes;
  }
  Codes Encode(const std::vector<float>& x, const HalfRows& rows, int sparsity) const {
    Codes codes;
    Ops(1).OmpEncode(ArgsFor(x, *rows.prepared, sparsity, codes), rows.view());
    return codes;
  }

  // Compares with the definition, vector by vector, up to the first pick at which the definition's
  // best two differ by less than 1e-3: FP32 may take either there, and all that follows differs.
  // Returns the share of picks compared.
  double ExpectMatchesDefinition(const std::vector<float>& x, const PreparedDictionary& dictionary,
                                 int sparsity, float error_threshold = 0) const {
    const Codes codes = Encode(x, dictionary, sparsity, error_threshold);
    return ExpectMatchesDefinition(codes, x, dictionary, error_threshold);
  }
  double ExpectMatchesDefinition(const Codes& codes, const std::vector<float>& x,
                                 const PreparedDictionary& dictionary,
                                 float error_threshold = 0) const {
    const int sparsity = codes.sparsity;
    const int head_dim = dictionary.head_dim();
    int64_t compared = 0;
    int64_t all = 0;
    for (int64_t v = 0; v < codes.n_vectors(); ++v) {
      SCOPED_TRACE(fmt::format("vector {}", v));
      const definition::OmpPursuit pursuit =
          definition::Pursue(x.data() + v * head_dim, dictionary, sparsity, error_threshold);
      all += static_cast<int64_t>(pursuit.picks.size());
      bool tie = false;
      double norm = 0;
      for (int i = 0; i < head_dim; ++i) norm += x[v * head_dim + i] * x[v * head_dim + i];
      norm = std::sqrt(norm);
      for (size_t j = 0; j < pursuit.picks.size() && !tie; ++j) {
        const definition::OmpPick& pick = pursuit.picks[j];
        tie = pick.score - pick.runner_up < 1e-3 * pick.score || pick.score < 1e-4 * norm;
        if (tie) break;
        EXPECT_EQ(codes.atoms[v * sparsity + j], pick.atom) << "pick " << j;
        ++compared;
      }
      if (tie) continue;
      for (size_t j = 0; j < pursuit.picks.size(); ++j) {
        // One step of E4M3 apart at most: FP32 may fall on the other side of a rounding boundary.
        const float stored = E4m3ToFloat(codes.coefs[v * sparsity + j]);
        const float expected = static_cast<float>(pursuit.coefficients[j]);
        EXPECT_NEAR(stored, std::clamp(expected, -448.0f, 448.0f),
                    std::max(std::abs(expected) / 15.9f, 0x1p-10f))
            << "coefficient " << j;
      }
    }
    return all == 0 ? 1.0 : static_cast<double>(compared) / static_cast<double>(all);
  }
};
LEXICO_TEST_ON_ALL_DEVICES(OmpEncodeTest);

TEST_P(OmpEncodeTest, MatchesDefinitionOnAllSmallShapes) {
  uint32_t seed = 1;
  for (const int head_dim : {4, 8, 15, 16, 40, 64, 96}) {
    for (const int n_atoms : {16, 33, 128, 300}) {
      for (const int sparsity : {1, 2, 4, 7}) {
        if (sparsity > head_dim) continue;
        SCOPED_TRACE(fmt::format("head_dim {} n_atoms {} sparsity {} seed {}", head_dim, n_atoms,
                                 sparsity, seed));
        std::mt19937 random(seed++);
        const std::vector<float> atoms = RandomAtoms(n_atoms, head_dim, random);
        const std::vector<float> x = NoisyCombinations(atoms, head_dim, 3, 0.1f, random);
        ExpectMatchesDefinition(x, *Prepare(atoms, head_dim), sparsity);
      }
    }
  }
}

// 1500 atoms: no Gram matrix is kept, and 20 vectors are too few to make one, so the direct search
// runs. It is never made where AMX multiplies bytes, which takes components by the 64.
TEST_P(OmpEncodeTest, BothSearchesMatchDefinitionOnLargeDictionaries) {
  std::mt19937 random(11);
  const std::vector<float> atoms = RandomAtoms(1500, 48, random);
  const auto dictionary = Prepare(atoms, 48);
  const auto with_gram = DictionaryForCoding(dictionary, 100'000, 24, Stream::Cpu(1));
  ASSERT_NE(with_gram, dictionary);
  const std::vector<float> few = NoisyCombinations(atoms, 48, 20, 0.2f, random);
  EXPECT_GT(ExpectMatchesDefinition(few, *dictionary, 8), 0.9);
  const std::vector<float> many = NoisyCombinations(atoms, 48, 120, 0.2f, random);
  EXPECT_GT(ExpectMatchesDefinition(many, *with_gram, 24), 0.7);
}

TEST_P(OmpEncodeTest, WholeTilesOfBytesMatchDefinition) {
  std::mt19937 random(31);
  const std::vector<float> atoms = RandomAtoms(1500, 64, random);
  const std::vector<float> x = NoisyCombinations(atoms, 64, 70, 0.2f, random);
  EXPECT_GT(ExpectMatchesDefinition(x, *Prepare(atoms, 64), 8), 0.9);
}

TEST_P(OmpEncodeTest, RowsOfHalvesMatchDefinition) {
  std::mt19937 random(32);
  for (const int head_dim : {24, 64, 96, 128, 200, 256}) {
    for (const int sparsity : {16, 23}) {
      SCOPED_TRACE(fmt::format("head_dim {} sparsity {}", head_dim, sparsity));
      const HalfRows rows = RandomHalfRows(700, head_dim, random);
      const std::vector<float> x = NoisyCombinations(rows.atoms, head_dim, 25, 0.2f, random);
      const Codes codes = Encode(x, rows, sparsity);
      EXPECT_GT(ExpectMatchesDefinition(codes, x, *rows.prepared), 0.8);
    }
  }
}

// Down to the last dimension atoms have little left that is not in the span of those taken: a GPU
// goes on in double.
TEST_P(OmpEncodeTest, NearlyDependentRowsOfHalvesMatchDefinition) {
  std::mt19937 random(33);
  for (const int head_dim : {12, 16, 40}) {
    SCOPED_TRACE(head_dim);
    const HalfRows rows = RandomHalfRows(head_dim * 3 / 2, head_dim, random);
    const std::vector<float> x = RandomNormal(30 * head_dim, random);
    const Codes codes = Encode(x, rows, head_dim);
    EXPECT_GT(ExpectMatchesDefinition(codes, x, *rows.prepared), 0.5);
  }
}

// Enough for the GPU's kernel of many vectors, which shares the functions of that of few.
TEST_P(OmpEncodeTest, ManyVectorsAreCodedAsFewAre) {
  if (!on_gpu()) GTEST_SKIP() << "the CPU's ways for many and for few are compared below";
  std::mt19937 random(34);
  const HalfRows rows = RandomHalfRows(1100, 128, random);
  const int64_t n = 40'001;
  std::vector<float> x = NoisyCombinations(rows.atoms, 128, n, 0.2f, random);
  std::fill_n(x.begin() + 7 * 128, 300 * 128, 0.0f);  // more than a block takes
  x[1000 * 128] = kNan;
  for (const int sparsity : {5, 16, 20, 34}) {
    SCOPED_TRACE(sparsity);
    const Codes many = Encode(x, rows, sparsity);
    EXPECT_EQ(many.n_non_finite, 1);
    for (const int64_t begin : {int64_t{0}, int64_t{980}, int64_t{33'700}, n - 100}) {
      const std::vector<float> part(x.begin() + begin * 128, x.begin() + (begin + 100) * 128);
      const Codes few = Encode(part, rows, sparsity);
      const auto same = [&](const auto& a, const auto& b, int64_t width) {
        return std::memcmp(a.data(), b.data() + begin * width, a.size() * sizeof(a[0])) == 0;
      };
      EXPECT_TRUE(same(few.atoms, many.atoms, sparsity)) << begin;
      EXPECT_TRUE(same(few.coefs, many.coefs, sparsity)) << begin;
      EXPECT_TRUE(same(few.rel_error, many.rel_error, 1)) << begin;
    }
    const int64_t first = 30'000;
    Codes some;
    some.sparsity = sparsity;
    some.atoms.assign(many.atoms.begin() + first * sparsity,
                      many.atoms.begin() + (first + 20) * sparsity);
    some.coefs.assign(many.coefs.begin() + first * sparsity,
                      many.coefs.begin() + (first + 20) * sparsity);
    some.rel_error.assign(20, 0);
    const std::vector<float> some_x(x.begin() + first * 128, x.begin() + (first + 20) * 128);
    EXPECT_GT(ExpectMatchesDefinition(some, some_x, *rows.prepared), 0.5);
  }
}

TEST_P(OmpEncodeTest, RandomVectorsMatchDefinition) {
  std::mt19937 random(12);
  const auto dictionary = RandomDictionary(512, 32, random);
  EXPECT_GT(ExpectMatchesDefinition(RandomNormal(20 * 32, random), *dictionary, 16), 0.8);
}

TEST_P(OmpEncodeTest, ErrorThresholdStopsEarly) {
  std::mt19937 random(13);
  const std::vector<float> atoms = RandomAtoms(256, 32, random);
  const auto dictionary = Prepare(atoms, 32);
  const std::vector<float> x = NoisyCombinations(atoms, 32, 20, 0.1f, random);
  ExpectMatchesDefinition(x, *dictionary, 16, /*error_threshold=*/0.4f);
  const Codes loose = Encode(x, *dictionary, 16, 0.4f);
  const Codes tight = Encode(x, *dictionary, 16, 0.0f);
  for (int64_t v = 0; v < loose.n_vectors(); ++v) {
    EXPECT_LE(loose.rel_error[v], 0.45f) << v;  // 0.4 and the rounding of coefficients
    EXPECT_LT(loose.AtomsOf(v).size(), tight.AtomsOf(v).size()) << v;
  }
}

TEST_P(OmpEncodeTest, RecoversTheSupportOfSparseVectors) {
  std::mt19937 random(14);
  const std::vector<float> atoms = RandomAtoms(256, 128, random);
  std::vector<float> x(128, 0.0f);
  const int support[] = {7, 90, 201};
  const float c[] = {3, -2, 1.5f};
  for (int j = 0; j < 3; ++j) {
    for (int i = 0; i < 128; ++i) x[i] += c[j] * atoms[support[j] * 128 + i];
  }
  const Codes codes = Encode(x, *Prepare(atoms, 128), 8);
  EXPECT_EQ(codes.AtomsOf(0), (std::vector<int>{7, 90, 201}));
  for (int j = 0; j < 3; ++j) EXPECT_EQ(E4m3ToFloat(codes.coefs[j]), c[j]);
  for (int j = 3; j < 8; ++j) EXPECT_EQ(codes.atoms[j], 0);
  EXPECT_LT(codes.rel_error[0], 1e-6f);
}

TEST_P(OmpEncodeTest, ExactMultipleOfAnAtomTakesThatAtomOnly) {
  std::mt19937 random(15);
  const std::vector<float> atoms = RandomAtoms(64, 16, random);
  std::vector<float> x;
  for (int a = 0; a < 64; ++a) {
    for (int i = 0; i < 16; ++i) x.push_back(-2.5f * atoms[a * 16 + i]);
  }
  const Codes codes = Encode(x, *Prepare(atoms, 16), 4);
  for (int a = 0; a < 64; ++a) {
    EXPECT_EQ(codes.AtomsOf(a), std::vector<int>{a});
    EXPECT_EQ(E4m3ToFloat(codes.coefs[a * 4]), -2.5f);
    EXPECT_LT(codes.rel_error[a], 1e-6f);
  }
}

TEST_P(OmpEncodeTest, RelativeErrorIsThatOfTheStoredCode) {
  std::mt19937 random(16);
  const std::vector<float> atoms = RandomAtoms(128, 24, random);
  const std::vector<float> x = RandomNormal(10 * 24, random, 5);
  const Codes codes = Encode(x, *Prepare(atoms, 24), 6);
  for (int64_t v = 0; v < 10; ++v) {
    double error = 0;
    double norm = 0;
    for (int i = 0; i < 24; ++i) {
      double rest = x[v * 24 + i];
      norm += rest * rest;
      for (int j = 0; j < 6; ++j) {
        rest -= static_cast<double>(E4m3ToFloat(codes.coefs[v * 6 + j])) *
                atoms[codes.atoms[v * 6 + j] * 24 + i];
      }
      error += rest * rest;
    }
    EXPECT_NEAR(codes.rel_error[v], std::sqrt(error / norm), 1e-5) << v;
  }
}

TEST_P(OmpEncodeTest, ErrorFallsWithSparsity) {
  std::mt19937 random(17);
  const auto dictionary = RandomDictionary(256, 64, random);
  const std::vector<float> x = RandomNormal(64 * 10, random, 20);
  std::vector<float> before(10, 1.0f);
  for (const int sparsity : {1, 4, 16, 64}) {
    const Codes codes = Encode(x, *dictionary, sparsity);
    for (int v = 0; v < 10; ++v) {
      EXPECT_LT(codes.rel_error[v], before[v]) << sparsity;
      before[v] = codes.rel_error[v];
    }
  }
}

TEST_P(OmpEncodeTest, NoAtomIsTakenTwice) {
  std::mt19937 random(18);
  const auto dictionary = RandomDictionary(80, 64, random);
  const Codes codes = Encode(RandomNormal(64 * 20, random, 10), *dictionary, 64);
  for (int64_t v = 0; v < 20; ++v) {
    const std::vector<int> used = codes.AtomsOf(v);
    EXPECT_EQ(std::set<int>(used.begin(), used.end()).size(), used.size()) << v;
  }
}

TEST_P(OmpEncodeTest, ZeroVectorHasNoAtomsAndNoError) {
  std::mt19937 random(19);
  const Codes codes = Encode(std::vector<float>(16, 0.0f), *RandomDictionary(32, 16, random), 4);
  EXPECT_EQ(codes.atoms, std::vector<uint16_t>(4, 0));
  EXPECT_EQ(codes.coefs, std::vector<uint8_t>(4, 0));
  EXPECT_EQ(codes.rel_error[0], 0);
  EXPECT_EQ(codes.n_non_finite, 0);
}

TEST_P(OmpEncodeTest, NonFiniteVectorsAreCountedAndDoNotTouchTheirNeighbours) {
  std::mt19937 random(20);
  const auto dictionary = RandomDictionary(64, 16, random);
  const std::vector<float> clean = RandomNormal(16 * 6, random);
  const Codes expected = Encode(clean, *dictionary, 4);
  std::vector<float> x = clean;
  x[0 * 16 + 3] = kNan;
  x[2 * 16 + 15] = kInf;
  x[5 * 16] = -kInf;
  const Codes codes = Encode(x, *dictionary, 4);
  EXPECT_EQ(codes.n_non_finite, 3);
  for (const int v : {0, 2, 5}) {
    EXPECT_TRUE(std::isnan(codes.rel_error[v])) << v;
    EXPECT_TRUE(codes.AtomsOf(v).empty()) << v;
    for (int j = 0; j < 4; ++j) EXPECT_EQ(codes.atoms[v * 4 + j], 0);
  }
  for (const int v : {1, 3, 4}) {
    EXPECT_EQ(codes.rel_error[v], expected.rel_error[v]) << v;
    EXPECT_EQ(codes.AtomsOf(v), expected.AtomsOf(v)) << v;
  }
}

TEST_P(OmpEncodeTest, DuplicateAtomsAreSkippedAndTheFirstIsTaken) {
  std::mt19937 random(21);
  std::vector<float> atoms = RandomAtoms(8, 16, random);
  // Atoms 8 .. 31 are copies of 0 .. 7, three times.
  for (int copy = 0; copy < 3; ++copy) {
    atoms.insert(atoms.end(), atoms.begin(), atoms.begin() + 8 * 16);
  }
  const Codes codes = Encode(RandomNormal(16 * 10, random, 4), *Prepare(atoms, 16), 12);
  for (int64_t v = 0; v < 10; ++v) {
    EXPECT_TRUE(std::isfinite(codes.rel_error[v]));
    EXPECT_LE(codes.rel_error[v], 1.0f);
    EXPECT_EQ(codes.AtomsOf(v).size(), 8u) << "the span has 8 dimensions";
    for (const int atom : codes.AtomsOf(v)) EXPECT_LT(atom, 8);
  }
}

TEST_P(OmpEncodeTest, NearlyParallelAtomsGiveFiniteCodes) {
  std::mt19937 random(22);
  const std::vector<float> one = RandomAtoms(1, 32, random);
  std::vector<float> atoms;
  for (int a = 0; a < 40; ++a) {
    const std::vector<float> noise = RandomNormal(32, random, a % 2 == 0 ? 1e-5f : 1e-3f);
    for (int i = 0; i < 32; ++i) atoms.push_back(one[i] + noise[i]);
  }
  const Codes codes = Encode(RandomNormal(32 * 10, random), *Prepare(atoms, 32), 16);
  for (int64_t v = 0; v < 10; ++v) EXPECT_TRUE(std::isfinite(codes.rel_error[v])) << v;
}

TEST_P(OmpEncodeTest, SparsityBeyondTheRankStops) {
  std::mt19937 random(23);
  // 20 atoms within the first 3 of 16 dimensions.
  std::vector<float> atoms(20 * 16, 0.0f);
  const std::vector<float> low = RandomAtoms(20, 3, random);
  for (int a = 0; a < 20; ++a) {
    for (int i = 0; i < 3; ++i) atoms[a * 16 + i] = low[a * 3 + i];
  }
  const Codes codes = Encode(RandomNormal(16 * 10, random, 4), *Prepare(atoms, 16), 10);
  for (int64_t v = 0; v < 10; ++v) EXPECT_LE(codes.AtomsOf(v).size(), 3u) << v;
}

TEST_P(OmpEncodeTest, HugeMagnitudesSaturateAndTinyOnesVanish) {
  std::mt19937 random(24);
  const std::vector<float> atoms = RandomAtoms(32, 16, random);
  std::vector<float> x;
  for (const float magnitude : {1e3f, 1e30f, 1e-4f, 1e-30f, 1e-42f}) {
    for (int i = 0; i < 16; ++i) x.push_back(magnitude * atoms[i]);
  }
  const Codes codes = Encode(x, *Prepare(atoms, 16), 2);
  EXPECT_EQ(E4m3ToFloat(codes.coefs[0]), 448);
  EXPECT_NEAR(codes.rel_error[0], 0.552f, 1e-3f);
  EXPECT_EQ(E4m3ToFloat(codes.coefs[2]), 448);
  for (int v = 2; v < 5; ++v) {
    EXPECT_TRUE(codes.AtomsOf(v).empty()) << v;
    EXPECT_NEAR(codes.rel_error[v], 1, 1e-3f) << v;
  }
}

TEST_P(OmpEncodeTest, ScalingAVectorScalesItsCode) {
  std::mt19937 random(25);
  const auto dictionary = RandomDictionary(256, 64, random);
  std::vector<float> x = RandomNormal(64 * 8, random);
  const Codes codes = Encode(x, *dictionary, 8);
  for (float& value : x) value *= 8;
  const Codes scaled = Encode(x, *dictionary, 8);
  EXPECT_EQ(codes.atoms, scaled.atoms);
  for (size_t i = 0; i < codes.coefs.size(); ++i) {
    const float small = E4m3ToFloat(codes.coefs[i]);
    // Subnormal coefficients are rounded more coarsely than eight times larger ones.
    if (std::abs(small) >= 0x1p-6f) {
      EXPECT_EQ(E4m3ToFloat(scaled.coefs[i]), 8 * small);
    }
  }
}

// The same vector alone (direct search), among a few, and among many (Gram search).
TEST_P(OmpEncodeTest, SameBitsWhateverTheBatchAndTheThreads) {
  std::mt19937 random(26);
  const std::vector<float> atoms = RandomAtoms(1500, 48, random);
  const auto dictionary = Prepare(atoms, 48);
  const std::vector<float> x = NoisyCombinations(atoms, 48, 1300, 0.2f, random);
  const Codes all = Encode(x, *dictionary, 12);
  ExpectSameBits(Encode(x, *dictionary, 12), all);
  for (const int threads : {2, 3}) {
    SCOPED_TRACE(threads);
    ExpectSameBits(Encode(x, *dictionary, 12, 0, threads), all);
  }
  for (const int64_t batch : {1, 7, 50}) {
    SCOPED_TRACE(batch);
    for (const int64_t begin : {int64_t{0}, int64_t{171}, 1300 - batch}) {
      const std::vector<float> part(x.begin() + begin * 48, x.begin() + (begin + batch) * 48);
      const Codes codes = Encode(part, *dictionary, 12);
      EXPECT_TRUE(
          std::equal(codes.atoms.begin(), codes.atoms.end(), all.atoms.begin() + begin * 12));
      EXPECT_TRUE(
          std::equal(codes.coefs.begin(), codes.coefs.end(), all.coefs.begin() + begin * 12));
      EXPECT_TRUE(std::equal(codes.rel_error.begin(), codes.rel_error.end(),
                             all.rel_error.begin() + begin));
    }
  }
}

TEST_P(OmpEncodeTest, SameBitsWithAndWithoutAKeptGramMatrix) {
  std::mt19937 random(29);
  const std::vector<float> atoms = RandomAtoms(600, 40, random);
  const TensorView view(atoms.data(), {600, 40});
  const auto with = PrepareDictionary(view, Stream::Cpu(1));
  const auto without = PrepareDictionary(view, Stream::Cpu(1), /*gram_bytes_max=*/0);
  // Noise alone, to the full dimension: residuals become small against the vector.
  const std::vector<float> x = RandomNormal(30 * 40, random);
  for (const int sparsity : {8, 40}) {
    ExpectSameBits(Encode(x, **with, sparsity), Encode(x, **without, sparsity));
  }
}

TEST_P(OmpEncodeTest, ADictionaryForManyVectorsCodesFewToTheSameBits) {
  std::mt19937 random(30);
  const std::vector<float> atoms = RandomAtoms(600, 40, random);
  const std::shared_ptr<const PreparedDictionary> own =
      *PrepareDictionary(TensorView(atoms.data(), {600, 40}), Stream::Cpu(1), 0);
  const auto many = DictionaryForCoding(own, 100'000, 8, Stream::Cpu(2));
  EXPECT_GE(many->bytes(), own->bytes() + 600 * 600);
  EXPECT_EQ(DictionaryForCoding(own, 10, 8, Stream::Cpu(1)), own);
  EXPECT_EQ(DictionaryForCoding(many, 100'000, 8, Stream::Cpu(1)), many);
  const std::vector<float> x = RandomNormal(30 * 40, random);
  ExpectSameBits(Encode(x, *many, 8), Encode(x, *own, 8));
}

// Where they are asked for; those of FP8 are what they round to.
TEST_P(OmpEncodeTest, CoefficientsAreThoseOfTheDefinitionBeforeRounding) {
  std::mt19937 random(41);
  const auto dictionary = RandomDictionary(96, 24, random);
  std::vector<float> x = RandomNormal(7 * 24, random, 20.0f);
  std::fill_n(x.begin() + 24, 24, 0.0f);
  Codes codes;
  std::vector<float> coefficients(7 * 5, kNan);
  OmpEncodeArgs args = ArgsFor(x, *dictionary, 5, codes);
  args.coefficients = MutableTensorView(coefficients.data(), {7, 5});
  Ops().OmpEncode(args);
  Codes expected;
  std::vector<float> defined(7 * 5, kNan);
  OmpEncodeArgs definition_args = ArgsFor(x, *dictionary, 5, expected);
  definition_args.coefficients = MutableTensorView(defined.data(), {7, 5});
  definition::OmpEncode(definition_args);
  EXPECT_EQ(codes.atoms, expected.atoms);
  for (size_t i = 0; i < coefficients.size(); ++i) {
    EXPECT_NEAR(coefficients[i], defined[i], 1e-4) << i;
    EXPECT_EQ(FloatToE4m3(coefficients[i]), codes.coefs[i]) << i;
  }
}

TEST_P(OmpEncodeTest, EmptyBatchIsNothing) {
  std::mt19937 random(27);
  EXPECT_EQ(Encode({}, *RandomDictionary(16, 16, random), 4).n_vectors(), 0);
}

class OmpEncodeDeathTest : public testing::Test {
 protected:
  OmpEncodeDeathTest() : dictionary_(MakeDictionary()), x_(32, 1.0f) {
    args_ = ArgsFor(x_, *dictionary_, 4, codes_);
  }
  static std::shared_ptr<const PreparedDictionary> MakeDictionary() {
    std::mt19937 random(28);
    return RandomDictionary(32, 16, random);
  }
  void Run() { OmpEncode(args_, Stream::Cpu(1)); }

  std::shared_ptr<const PreparedDictionary> dictionary_;
  std::vector<float> x_;
  Codes codes_;
  OmpEncodeArgs args_;
};

TEST_F(OmpEncodeDeathTest, RejectsVectorsOfAnotherHeadDim) {
  args_.x = TensorView(x_.data(), {4, 8});
  EXPECT_DEATH(Run(), "args.x.dim\\(1\\)");
}
TEST_F(OmpEncodeDeathTest, RejectsSparsityZero) {
  args_.sparsity = 0;
  EXPECT_DEATH(Run(), "args.sparsity \\(0\\) >= 1");
}
TEST_F(OmpEncodeDeathTest, RejectsSparsityOverHeadDim) {
  args_.sparsity = 17;
  EXPECT_DEATH(Run(), "args.sparsity \\(17\\)");
}
TEST_F(OmpEncodeDeathTest, RejectsANegativeThreshold) {
  args_.error_threshold = -0.1f;
  EXPECT_DEATH(Run(), "error_threshold");
}
TEST_F(OmpEncodeDeathTest, RejectsOutputsOfAnotherShape) {
  args_.coefs = MutableTensorView(codes_.coefs.data(), {2, 3});
  EXPECT_DEATH(Run(), "args.coefs.dim\\(1\\)");
}

}  // namespace
}  // namespace lexico::kernels

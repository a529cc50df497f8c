// The bounds that the searches promise, against products in double.
#include "kernels/cpu/omp_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/cpu/omp_bytes.h"
#include "kernels/cpu/omp_gram.h"
#include "kernels/cpu/omp_project.h"
#include "tests/kernels/code_fixtures.h"

namespace lexico::kernels::cpu {
namespace {

using Shorts = hwy::AlignedFreeUniquePtr<int16_t[]>;

constexpr int kHeadDim = 21;
constexpr int kAtoms = 300;

class OmpScoresTest : public testing::Test {
 protected:
  OmpScoresTest() : random_(1), prepared_(MakeDictionary()) {}

  // The last component is 0 in all atoms, the first a tenth of the others.
  std::shared_ptr<const PreparedDictionary> MakeDictionary() {
    std::vector<float> atoms = tests::RandomAtoms(kAtoms, kHeadDim, random_);
    for (int a = 0; a < kAtoms; ++a) {
      float* row = atoms.data() + a * kHeadDim;
      row[0] *= 0.1f;
      row[kHeadDim - 1] = 0;
      float squares = 0;
      for (int i = 0; i < kHeadDim; ++i) squares += row[i] * row[i];
      for (int i = 0; i < kHeadDim; ++i) row[i] /= std::sqrt(squares);
    }
    return tests::Prepare(atoms, kHeadDim);
  }

  const Dictionary& dictionary() const { return AsCpu(*prepared_); }

  // n_vectors rows of row_stride, of the given norm, zero-padded.
  std::vector<float> Vectors(int n_vectors, float norm) {
    const int stride = dictionary().row_stride();
    std::vector<float> vectors(static_cast<size_t>(n_vectors) * stride, 0.0f);
    for (int v = 0; v < n_vectors; ++v) {
      const std::vector<float> one = tests::RandomAtoms(1, kHeadDim, random_);
      for (int i = 0; i < kHeadDim; ++i) vectors[v * stride + i] = norm * one[i];
    }
    return vectors;
  }

  // Room for scores of n_vectors vectors.
  struct Rows {
    Rows(const Dictionary& dictionary, int n_vectors)
        : n(n_vectors),
          groups(GroupsOf(dictionary)),
          values(hwy::AllocateAligned<int16_t>(n * groups * kGroupAtoms)),
          maxima(hwy::AllocateAligned<int16_t>(n * groups * kGroupMaxima)) {}
    Scores Interleaved(int i, float scale, float error) const {
      return {values.get() + i * kGroupAtoms, maxima.get() + i * kGroupMaxima, n, scale, error};
    }
    Scores At(int i, float scale, float error) const {
      return {values.get() + i * groups * kGroupAtoms, maxima.get() + i * groups * kGroupMaxima, 1,
              scale, error};
    }

    int n;
    size_t groups;
    Shorts values;
    Shorts maxima;
  };

  void ExpectWithinBound(const float* vector, const Scores& scores) {
    std::vector<int> largest(dictionary().padded_atoms() / kGroupAtoms, 0);
    for (int a = 0; a < dictionary().padded_atoms(); ++a) {
      double product = 0;
      for (int i = 0; i < kHeadDim && a < kAtoms; ++i) {
        product += static_cast<double>(vector[i]) * dictionary().row(a)[i];
      }
      EXPECT_NEAR(scores.value(a), product * scores.scale, scores.error) << "atom " << a;
      int& of_group = largest[a / kGroupAtoms];
      of_group = std::max(of_group, std::abs(scores.value(a)));
    }
    for (size_t group = 0; group < largest.size(); ++group) {
      const int16_t* maxima = scores.group_maxima(group);
      EXPECT_EQ(*std::max_element(maxima, maxima + kGroupMaxima), largest[group]) << group;
    }
  }

  std::mt19937 random_;
  std::shared_ptr<const PreparedDictionary> prepared_;
};

// n_vectors in 8 bits, and their products with all atoms.
struct ByteScores {
  ByteScores(const BytePanels& panels, const std::vector<float>& x)
      : n_vectors(static_cast<int>(x.size()) / (panels.n_quads() * 4)),
        components(x.size() + static_cast<size_t>(kByteRows) * panels.n_quads() * 4) {
    const size_t stride = static_cast<size_t>(panels.n_quads()) * 4;
    for (int v = 0; v < n_vectors; ++v) {
      vectors.push_back(
          QuantizeToBytes(panels, x.data() + v * stride, components.data() + v * stride));
    }
  }
  template <typename Rows>
  void Project(const BytePanels& panels, ByteUnit unit, const Rows& to) const {
    ProjectBytes(unit, {panels, components.data(), vectors.data(), n_vectors, to.values.get(),
                        to.maxima.get(), n_vectors});
  }

  int n_vectors;
  std::vector<int8_t> components;
  std::vector<ByteVector> vectors;
};

TEST_F(OmpScoresTest, ByteProductsKeepTheirBound) {
  if (BestByteUnit() == ByteUnit::kNone) GTEST_SKIP() << "no dot products of bytes";
  const BytePanels& panels = *dictionary().byte_panels();
  for (const int n_vectors : {1, 2, 12, 13, 30, 60}) {
    const std::vector<float> x = Vectors(n_vectors, n_vectors % 2 == 0 ? 1.0f : 1e-5f);
    const ByteScores bytes(panels, x);
    const Rows rows(dictionary(), n_vectors);
    bytes.Project(panels, panels.unit(), rows);
    for (int v = 0; v < n_vectors; ++v) {
      SCOPED_TRACE(v);
      ExpectWithinBound(x.data() + v * dictionary().row_stride(),
                        rows.Interleaved(v, bytes.vectors[v].scale, bytes.vectors[v].error));
    }
  }
}

TEST_F(OmpScoresTest, BothByteUnitsGiveTheSameScores) {
  if (BestByteUnit() != ByteUnit::kAmx) GTEST_SKIP() << "no AMX";
  for (const int head_dim : {64, 120, 128}) {
    const auto prepared = tests::RandomDictionary(kAtoms, head_dim, random_);
    const Dictionary& wide = AsCpu(*prepared);
    const BytePanels& panels = *wide.byte_panels();
    ASSERT_EQ(panels.unit(), ByteUnit::kAmx);
    for (const int n_vectors : {1, 15, 16, 17, 32, 33, 70}) {
      SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << " vectors " << n_vectors);
      const ByteScores bytes(panels, tests::RandomAtoms(n_vectors, wide.row_stride(), random_));
      const Rows amx(wide, n_vectors);
      const Rows vnni(wide, n_vectors);
      bytes.Project(panels, ByteUnit::kAmx, amx);
      bytes.Project(panels, ByteUnit::kVnni, vnni);
      const auto same = [](const Shorts& a, const Shorts& b, size_t n) {
        return std::equal(a.get(), a.get() + n, b.get());
      };
      EXPECT_TRUE(same(amx.values, vnni.values, n_vectors * amx.groups * kGroupAtoms));
      EXPECT_TRUE(same(amx.maxima, vnni.maxima, n_vectors * amx.groups * kGroupMaxima));
    }
  }
}

TEST_F(OmpScoresTest, ShortProductsKeepTheirBound) {
  const int stride = dictionary().row_stride();
  const int packed = dictionary().n_pairs() * 2;
  for (const int n_vectors : {1, 5, 12, 13, 24}) {
    const std::vector<float> x = Vectors(n_vectors, 0.25f);
    std::vector<int16_t> quantized(n_vectors * packed);
    for (int v = 0; v < n_vectors; ++v) {
      Quantize(dictionary(), x.data() + v * stride, 0.25f, quantized.data() + v * packed);
    }
    const Rows rows(dictionary(), n_vectors);
    ProjectBlock(dictionary(), quantized.data(), n_vectors, rows.values.get());
    for (int v = 0; v < n_vectors; ++v) {
      SCOPED_TRACE(v);
      const Scores scores = rows.At(v, kScoreOne / 0.25f, ProjectionErrorBound(kHeadDim));
      FindMaxima(dictionary(), scores);
      ExpectWithinBound(x.data() + v * stride, scores);
    }
  }
}

TEST_F(OmpScoresTest, GramTermsKeepTheirBound) {
  const auto with_gram = dictionary().WithGram(1);
  const Rows base(dictionary(), 1);
  std::fill_n(base.values.get(), dictionary().padded_atoms(), int16_t{0});
  const Rows rows(dictionary(), 1);
  std::vector<float> x(dictionary().row_stride(), 0.0f);
  std::vector<GramTerm> terms;
  float sum = 0;
  for (const int atom : {0, 17, 127, 128, 256, 299}) {
    const float c = atom % 2 == 0 ? 0.3f : -0.11f;
    for (int i = 0; i < kHeadDim; ++i) x[i] -= c * dictionary().row(atom)[i];
    sum += std::abs(c);
    terms.push_back({.row = with_gram->gram() + atom * (dictionary().padded_atoms() / 2),
                     .factors = TwiceFactor(static_cast<int16_t>(
                         std::lrint(c * kScoreOne * (kFactorOne / kGramOne))))});
    const int n_terms = static_cast<int>(terms.size());
    const Scores scores = rows.At(0, kScoreOne, n_terms + sum * kScoreOne * GramError(kHeadDim));
    GramScores(dictionary(), base.At(0, kScoreOne, 0), terms.data(), n_terms, scores);
    ExpectWithinBound(x.data(), scores);
  }
}

TEST_F(OmpScoresTest, CandidatesAreAllAtomsWithinTwiceTheErrorOfTheLargest) {
  const Rows rows(dictionary(), 1);
  std::uniform_int_distribution<int> score(-100, 100);
  for (int a = 0; a < dictionary().padded_atoms(); ++a) {
    rows.values[a] = static_cast<int16_t>(a < kAtoms ? score(random_) : 0);
  }
  rows.values[177] = -100;
  for (const float error : {0.0f, 0.4f, 20.2f, 49.5f, 60.0f}) {
    const int least = std::max(0, static_cast<int>(std::floor(100 - 2 * error)));
    std::vector<uint16_t> expected;
    for (int a = 0; a < kAtoms; ++a) {
      if (std::abs(rows.values[a]) >= least) expected.push_back(static_cast<uint16_t>(a));
    }
    const Scores scores = rows.At(0, 1, error);
    FindMaxima(dictionary(), scores);
    std::vector<uint16_t> atoms(kAtoms + 1);
    const Candidates found = FindCandidates(dictionary(), scores, atoms.data());
    atoms.resize(found.n);
    EXPECT_EQ(atoms, expected) << error;
    EXPECT_EQ(found.largest, 100);
    EXPECT_EQ(found.least, least);
  }
}

}  // namespace
}  // namespace lexico::kernels::cpu

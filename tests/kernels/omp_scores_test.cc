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

  Shorts NewValues(int n_vectors) {
    return hwy::AllocateAligned<int16_t>(static_cast<size_t>(n_vectors) *
                                         dictionary().padded_atoms());
  }

  void ExpectWithinBound(const float* vector, const Scores& scores) {
    int largest = 0;
    for (int a = 0; a < dictionary().padded_atoms(); ++a) {
      double product = 0;
      for (int i = 0; i < kHeadDim && a < kAtoms; ++i) {
        product += static_cast<double>(vector[i]) * dictionary().row(a)[i];
      }
      EXPECT_NEAR(scores.values[a], product * scores.scale, scores.error) << "atom " << a;
      largest = std::max(largest, std::abs(scores.values[a]));
    }
    EXPECT_EQ(scores.largest, largest);
  }

  std::mt19937 random_;
  std::shared_ptr<const PreparedDictionary> prepared_;
};

TEST_F(OmpScoresTest, ByteProductsKeepTheirBound) {
  if (!HasByteDots()) GTEST_SKIP() << "no dot products of bytes";
  const BytePanels& panels = *dictionary().byte_panels();
  const int stride = dictionary().row_stride();
  for (const int n_vectors : {1, 2, 12, 13, 30, 60}) {
    const std::vector<float> x = Vectors(n_vectors, n_vectors % 2 == 0 ? 1.0f : 1e-5f);
    std::vector<int8_t> components(x.size());
    std::vector<ByteVector> vectors(n_vectors);
    for (int v = 0; v < n_vectors; ++v) {
      vectors[v].components = components.data() + v * stride;
      QuantizeToBytes(panels, x.data() + v * stride, vectors[v]);
    }
    const Shorts values = NewValues(n_vectors);
    std::vector<int> largest(n_vectors);
    ProjectBytes(panels, vectors.data(), n_vectors, values.get(), dictionary().padded_atoms(),
                 largest.data());
    for (int v = 0; v < n_vectors; ++v) {
      SCOPED_TRACE(v);
      ExpectWithinBound(x.data() + v * stride,
                        {.values = values.get() + v * dictionary().padded_atoms(),
                         .largest = largest[v],
                         .scale = vectors[v].scale,
                         .error = vectors[v].error});
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
    const Shorts values = NewValues(n_vectors);
    ProjectBlock(dictionary(), quantized.data(), n_vectors, values.get());
    for (int v = 0; v < n_vectors; ++v) {
      SCOPED_TRACE(v);
      int16_t* row = values.get() + v * dictionary().padded_atoms();
      ExpectWithinBound(x.data() + v * stride, {.values = row,
                                                .largest = LargestMagnitude(dictionary(), row),
                                                .scale = kScoreOne / 0.25f,
                                                .error = ProjectionErrorBound(kHeadDim)});
    }
  }
}

TEST_F(OmpScoresTest, GramTermsKeepTheirBound) {
  const auto with_gram = dictionary().WithGram(1);
  const Shorts base = NewValues(1);
  std::fill_n(base.get(), dictionary().padded_atoms(), int16_t{0});
  const Shorts values = NewValues(1);
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
    const int largest = GramScores(dictionary(), base.get(), terms.data(), n_terms, values.get());
    ExpectWithinBound(x.data(), {.values = values.get(),
                                 .largest = largest,
                                 .scale = kScoreOne,
                                 .error = n_terms + sum * kScoreOne * GramError(kHeadDim)});
  }
}

TEST_F(OmpScoresTest, CandidatesAreAllAtomsOfAtLeastTheLeast) {
  const Shorts values = NewValues(1);
  std::uniform_int_distribution<int> score(-100, 100);
  for (int a = 0; a < dictionary().padded_atoms(); ++a) {
    values[a] = static_cast<int16_t>(score(random_));
  }
  for (const int least : {0, 1, 50, 100, 101}) {
    std::vector<uint16_t> expected;
    for (int a = 0; a < kAtoms; ++a) {
      if (std::abs(values[a]) >= least) expected.push_back(static_cast<uint16_t>(a));
    }
    std::vector<uint16_t> candidates;
    CollectCandidates(dictionary(), values.get(), least, candidates);
    EXPECT_EQ(candidates, expected) << least;
  }
}

}  // namespace
}  // namespace lexico::kernels::cpu

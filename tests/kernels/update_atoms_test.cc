// UpdateAtoms and PrepareRows on every device: the two ops that only training calls.
#include "kernels/api/update_atoms.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/update_atoms_definition.h"
#include "kernels/cuda/fixed_sum.h"
#include "kernels/cuda/search_tile.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/device_ops.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::DeviceArray;
using tests::IsClose;

struct Shape {
  int n_atoms = 0;
  int head_dim = 0;
  int sparsity = 0;
  int n_vectors = 0;
};

// Host arrays of one call; codes are of OmpEncode.
struct Problem {
  Problem() = default;
  Problem(const Shape& of, uint32_t seed) : shape(of) {
    std::mt19937 random(seed);
    rows = tests::RandomAtoms(shape.n_atoms, shape.head_dim, random);
    x = tests::RandomNormal(static_cast<size_t>(shape.n_vectors) * shape.head_dim, random, 1.5F);
    atoms.resize(static_cast<size_t>(shape.n_vectors) * shape.sparsity);
    coefs.resize(atoms.size());
    rel_error.resize(shape.n_vectors);
    const auto dictionary = tests::Prepare(rows, shape.head_dim);
    OmpEncode({.x = TensorView(x.data(), {shape.n_vectors, shape.head_dim}),
               .dictionary = dictionary.get(),
               .sparsity = shape.sparsity,
               .atoms = MutableTensorView(atoms.data(), {shape.n_vectors, shape.sparsity}),
               .coefs = MutableTensorView(coefs.data(), {shape.n_vectors, shape.sparsity}),
               .rel_error = MutableTensorView(rel_error.data(), {shape.n_vectors})},
              Stream::Cpu(1));
    for (int a = 0; a < shape.n_atoms; ++a) weights.push_back(static_cast<float>(a % 5));
    n_uses.assign(shape.n_atoms, 3);
  }

  int uses_max() const {
    std::vector<int> uses(shape.n_atoms);
    int most = 0;
    for (const uint16_t atom : atoms) most = std::max(most, ++uses[atom]);
    return most;
  }

  Shape shape;
  std::vector<float> x;
  std::vector<uint16_t> atoms;
  std::vector<uint8_t> coefs;
  std::vector<float> rel_error;
  std::vector<float> rows;
  std::vector<float> weights;
  std::vector<int32_t> n_uses;
};

struct Updated {
  std::vector<float> rows;
  std::vector<float> weights;
  std::vector<int32_t> n_uses;
};

Updated OnDevice(const Problem& problem, float memory, const Stream& stream) {
  const Shape& shape = problem.shape;
  const DeviceArray<float> x(problem.x, stream);
  const DeviceArray<uint16_t> atoms(problem.atoms, stream);
  const DeviceArray<uint8_t> coefs(problem.coefs, stream);
  const DeviceArray<float> rel_error(problem.rel_error, stream);
  const DeviceArray<float> rows(problem.rows, stream);
  const DeviceArray<float> weights(problem.weights, stream);
  const DeviceArray<int32_t> n_uses(problem.n_uses, stream);
  UpdateAtoms({.x = x.View({shape.n_vectors, shape.head_dim}),
               .atoms = atoms.View({shape.n_vectors, shape.sparsity}),
               .coefs = coefs.View({shape.n_vectors, shape.sparsity}),
               .rel_error = rel_error.View({shape.n_vectors}),
               .memory = memory,
               .rows = rows.View({shape.n_atoms, shape.head_dim}),
               .weights = weights.View({shape.n_atoms}),
               .n_uses = n_uses.View({shape.n_atoms})},
              stream);
  return {rows.Values(), weights.Values(), n_uses.Values()};
}

Updated Defined(Problem problem, float memory, std::vector<float>* magnitude) {
  const Shape& shape = problem.shape;
  magnitude->assign(problem.rows.size(), 0);
  definition::UpdateAtoms(
      {.x = TensorView(problem.x.data(), {shape.n_vectors, shape.head_dim}),
       .atoms = TensorView(problem.atoms.data(), {shape.n_vectors, shape.sparsity}),
       .coefs = TensorView(problem.coefs.data(), {shape.n_vectors, shape.sparsity}),
       .rel_error = TensorView(problem.rel_error.data(), {shape.n_vectors}),
       .memory = memory,
       .rows = MutableTensorView(problem.rows.data(), {shape.n_atoms, shape.head_dim}),
       .weights = MutableTensorView(problem.weights.data(), {shape.n_atoms}),
       .n_uses = MutableTensorView(problem.n_uses.data(), {shape.n_atoms})},
      MutableTensorView(magnitude->data(), {shape.n_atoms, shape.head_dim}));
  return {problem.rows, problem.weights, problem.n_uses};
}

class UpdateAtomsTest : public tests::DeviceTest {};
LEXICO_TEST_ON_ALL_DEVICES(UpdateAtomsTest);

TEST_P(UpdateAtomsTest, MatchesDefinition) {
  uint32_t seed = 1;
  for (const int head_dim : {1, 8, 31, 64, 100, 128, 256}) {
    for (const int sparsity : {1, 3, 8}) {
      if (sparsity > head_dim) continue;
      for (const int n_vectors : {1, 7, 200}) {
        const Shape shape = {48, head_dim, sparsity, n_vectors};
        SCOPED_TRACE(
            fmt::format("head_dim {} sparsity {} vectors {}", head_dim, sparsity, n_vectors));
        const Problem problem(shape, seed++);
        std::vector<float> magnitude;
        const Updated expected = Defined(problem, 0.7F, &magnitude);
        const Updated actual = OnDevice(problem, 0.7F, stream());
        const auto view = [&](const std::vector<float>& values) {
          return TensorView(values.data(), {shape.n_atoms, head_dim});
        };
        // Sums of that many terms, and the rounding of a residual's.
        EXPECT_TRUE(IsClose(view(actual.rows), view(expected.rows), view(magnitude),
                            problem.uses_max() + sparsity + 4));
        EXPECT_EQ(actual.n_uses, expected.n_uses);
        for (int a = 0; a < shape.n_atoms; ++a) {
          EXPECT_NEAR(actual.weights[a], expected.weights[a], 1e-6 * (1 + expected.weights[a]));
        }
      }
    }
  }
}

TEST_P(UpdateAtomsTest, AnAtomTurnsToTheMeanDirectionOfItsVectors) {
  Problem problem;
  problem.shape = {2, 2, 1, 3};
  problem.rows = {1, 0, 0, 1};
  problem.weights = {0, 3};
  problem.n_uses = {0, 0};
  problem.atoms = {0, 0, 1};
  problem.coefs = {FloatToE4m3(2), FloatToE4m3(2), 0};
  problem.x = {2, 1, 2, 0, 7, 7};
  problem.rel_error = {0.01F, 0, 1};
  const Updated updated = OnDevice(problem, 0.5F, stream());
  // (2 * 2 + 2 * 2, 2 * 1), normalised.
  EXPECT_NEAR(updated.rows[0], 8 / std::sqrt(68.0), 1e-6);
  EXPECT_NEAR(updated.rows[1], 2 / std::sqrt(68.0), 1e-6);
  EXPECT_FLOAT_EQ(updated.weights[0], 4);
  EXPECT_EQ(updated.n_uses[0], 2);
  // A coefficient of 0 is no use of an atom: it keeps its direction, and forgets.
  EXPECT_EQ(updated.rows[2], 0);
  EXPECT_EQ(updated.rows[3], 1);
  EXPECT_EQ(updated.n_uses[1], 0);
  EXPECT_FLOAT_EQ(updated.weights[1], 1.5);
}

TEST_P(UpdateAtomsTest, AVectorCountsByTheInverseOfItsError) {
  Problem problem;
  problem.shape = {1, 2, 1, 2};
  problem.rows = {1, 0};
  problem.weights = {0};
  problem.n_uses = {0};
  problem.atoms = {0, 0};
  problem.coefs = {FloatToE4m3(1), FloatToE4m3(1)};
  problem.x = {1, 1, 1, -1};
  problem.rel_error = {4 * kUpdateErrorFloor, 2 * kUpdateErrorFloor};
  const Updated updated = OnDevice(problem, 1, stream());
  // (1/4 + 1/2, 1/4 - 1/2), normalised.
  EXPECT_NEAR(updated.rows[0], 3 / std::sqrt(10.0), 1e-6);
  EXPECT_NEAR(updated.rows[1], -1 / std::sqrt(10.0), 1e-6);
  EXPECT_FLOAT_EQ(updated.weights[0], 0.75F);
}

TEST_P(UpdateAtomsTest, AnAtomThatItsVectorsCancelKeepsItsDirection) {
  Problem problem;
  problem.shape = {1, 2, 1, 1};
  problem.rows = {1, 0};
  problem.weights = {0};
  problem.n_uses = {0};
  problem.atoms = {0};
  problem.coefs = {FloatToE4m3(2)};
  problem.rel_error = {0};
  problem.x = {0, 0};  // W d + g = 4 (1, 0) + 2 (-2, 0)
  EXPECT_EQ(OnDevice(problem, 1, stream()).rows, problem.rows);
}

TEST_P(UpdateAtomsTest, UpdatesLowerTheErrorOfTheCodes) {
  const Problem problem({32, 16, 3, 400}, 5);
  const auto error_of = [&](const std::vector<float>& rows) {
    double error = 0;
    for (int i = 0; i < 400; ++i) {
      for (int k = 0; k < 16; ++k) {
        double r = problem.x[i * 16 + k];
        for (int p = 3 * i; p < 3 * i + 3; ++p) {
          r -= double{E4m3ToFloat(problem.coefs[p])} * rows[problem.atoms[p] * 16 + k];
        }
        error += r * r;
      }
    }
    return error;
  };
  EXPECT_LT(error_of(OnDevice(problem, 0.9F, stream()).rows), 0.97 * error_of(problem.rows));
}

TEST_P(UpdateAtomsTest, SameBitsOnEveryRunAndWhateverTheThreads) {
  const Problem problem({64, 128, 8, 3000}, 9);
  const Updated once = OnDevice(problem, 0.9F, stream());
  for (int i = 0; i < 3; ++i) {
    const Updated again = OnDevice(problem, 0.9F, on_gpu() ? stream() : Stream::Cpu(1 + 2 * i));
    EXPECT_EQ(once.rows, again.rows);
    EXPECT_EQ(once.weights, again.weights);
  }
}

TEST_P(UpdateAtomsTest, NoVectorsAreNothing) {
  const Problem problem({16, 8, 2, 0}, 2);
  const Updated updated = OnDevice(problem, 0.5F, stream());
  EXPECT_EQ(updated.rows, problem.rows);
  EXPECT_EQ(updated.weights, problem.weights);
}

TEST(UpdateAtomsDeathTest, RejectsMalformedArguments) {
  Problem problem({16, 8, 2, 3}, 2);
  problem.atoms[1] = 16;
  EXPECT_DEATH(OnDevice(problem, 0.5F, Stream::Cpu(1)), "atoms\\[p\\] \\(16\\)");
  EXPECT_DEATH(OnDevice(Problem({16, 8, 2, 3}, 2), 1.5F, Stream::Cpu(1)), "args.memory");
}

TEST(FixedSumTest, AddsToTheSameNumberInAnyOrder) {
  const float terms[] = {1.25F, -3e5F, 1e-7F, 2.5F, -0.3F, 7e8F};
  unsigned long long forward = 0;
  unsigned long long backward = 0;
  double sum = 0;
  for (int i = 0; i < 6; ++i) {
    forward += cuda::ToFixed(terms[i]);
    backward += cuda::ToFixed(terms[5 - i]);
    sum += terms[i];
  }
  EXPECT_EQ(forward, backward);
  EXPECT_NEAR(cuda::FromFixed(forward), sum, 6 / 2.0 / cuda::kFixedOne);
  EXPECT_EQ(cuda::FromFixed(cuda::ToFixed(-2.5F)), -2.5);
}

TEST(SearchTileTest, EveryNumberHasAPlaceOfItsOwnAndRowsAreSwizzled) {
  for (const int dim : {64, 128, 256}) {
    std::vector<int> taken(64 * dim);
    for (int row = 0; row < 64; ++row) {
      for (int i = 0; i < dim; ++i) {
        const size_t place = cuda::PlaceInTile(64, row, i);
        ASSERT_LT(place, taken.size());
        EXPECT_EQ(taken[place]++, 0);
      }
    }
  }
  EXPECT_EQ(cuda::PlaceInTile(64, 0, 9), 9U);
  EXPECT_EQ(cuda::PlaceInTile(64, 1, 9), 64U + 1);                  // chunk 1 ^ 1
  EXPECT_EQ(cuda::PlaceInTile(64, 3, 64), 64U * 64 + 3 * 64 + 24);  // slab 1, chunk 0 ^ 3
}

class PrepareRowsTest : public tests::DeviceTest {
 protected:
  struct Codes {
    std::vector<uint16_t> atoms;
    std::vector<uint8_t> coefs;
  };
  Codes CodesOf(const std::vector<float>& x, const PreparedDictionary& dictionary) const {
    constexpr int kSparsity = 6;
    const int dim = dictionary.head_dim();
    const auto n = static_cast<int64_t>(x.size()) / dim;
    const DeviceArray<float> device_x(x, stream());
    const DeviceArray<uint16_t> atoms(std::vector<uint16_t>(n * kSparsity), stream());
    const DeviceArray<uint8_t> coefs(std::vector<uint8_t>(n * kSparsity), stream());
    const DeviceArray<float> rel_error(std::vector<float>(n), stream());
    OmpEncode({.x = device_x.View({n, dim}),
               .dictionary = &dictionary,
               .sparsity = kSparsity,
               .atoms = atoms.View({n, kSparsity}),
               .coefs = coefs.View({n, kSparsity}),
               .rel_error = rel_error.View({n})},
              stream());
    return {atoms.Values(), coefs.Values()};
  }
};
LEXICO_TEST_ON_ALL_DEVICES(PrepareRowsTest);

TEST_P(PrepareRowsTest, CodesAsTheDictionaryOfAFileOfF16) {
  for (const int head_dim : {16, 100, 128, 256}) {
    for (const int n_atoms : {32, 200}) {
      std::mt19937 random(head_dim + n_atoms);
      const std::vector<float> x = tests::RandomNormal(static_cast<size_t>(90) * head_dim, random);
      std::shared_ptr<const PreparedDictionary> dictionary;
      for (int i = 0; i < 3; ++i) {  // the second and third in the memory of the first
        const std::vector<float> rows = tests::RandomAtoms(n_atoms, head_dim, random);
        const DeviceArray<float> on_device(rows, stream());
        auto made =
            PrepareRows(on_device.View({n_atoms, head_dim}), stream(), std::move(dictionary));
        ASSERT_TRUE(made.ok()) << made.status();
        dictionary = *std::move(made);
        std::vector<uint16_t> halves;
        for (const float value : rows) halves.push_back(cpu::FloatToF16(value));
        const auto of_file = PrepareDictionary(
            TensorView(halves.data(), DType::kF16, {n_atoms, head_dim}), stream());
        ASSERT_TRUE(of_file.ok()) << of_file.status();
        const Codes expected = CodesOf(x, **of_file);
        const Codes actual = CodesOf(x, *dictionary);
        EXPECT_EQ(actual.atoms, expected.atoms) << head_dim << " " << n_atoms << " " << i;
        EXPECT_EQ(actual.coefs, expected.coefs) << head_dim << " " << n_atoms << " " << i;
      }
    }
  }
}

TEST_P(PrepareRowsTest, ADictionaryThatSomebodyHoldsStaysAsItIs) {
  std::mt19937 random(4);
  const std::vector<float> x = tests::RandomNormal(size_t{50} * 64, random);
  const DeviceArray<float> first(tests::RandomAtoms(64, 64, random), stream());
  const DeviceArray<float> second(tests::RandomAtoms(64, 64, random), stream());
  const auto held = PrepareRows(first.View({64, 64}), stream());
  ASSERT_TRUE(held.ok());
  const Codes before = CodesOf(x, **held);
  const auto other = PrepareRows(second.View({64, 64}), stream(), *held);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(CodesOf(x, **held).atoms, before.atoms);
  EXPECT_NE(CodesOf(x, **other).atoms, before.atoms);
}

}  // namespace
}  // namespace lexico::kernels

#include "tools/train_dictionary/first_atoms.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"

namespace lexico::train_dictionary {
namespace {

// Of a vector of norm 1.
constexpr double kNoise = 0.5;

// Nearly normal, mean 0 and variance 1: of four uniform numbers of 16 bits (Irwin-Hall).
double NormalOf(uint64_t bits) {
  const auto sum = static_cast<double>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                       ((bits >> 32) & 0xffff) + (bits >> 48));
  return (sum - 131070) / 37837.23;
}

double NormOf(std::span<const float> row) {
  double squares = 0;
  for (const float each : row) squares += double{each} * each;
  return std::sqrt(squares);
}

}  // namespace

void AtomFrom(std::span<const float> vector, uint64_t seed, uint64_t index, std::span<float> row) {
  const double norm = NormOf(vector);
  const double deviation = kNoise / std::sqrt(static_cast<double>(row.size()));
  for (size_t j = 0; j < row.size(); ++j) {
    row[j] = static_cast<float>(vector[j] / norm + deviation * NormalOf(RandomAt(seed, index, j)));
  }
  const double length = NormOf(row);
  for (float& each : row) each = static_cast<float>(each / length);
}

absl::StatusOr<Atoms> FirstAtoms(const VectorSet& set, int dictionary, int n_atoms, uint64_t seed) {
  const int64_t dim = set.head_dim();
  const std::vector<float> vectors = set.Download(dictionary);
  Atoms atoms{.n_atoms = n_atoms,
              .head_dim = set.head_dim(),
              .rows = std::vector<float>(n_atoms * dim),
              .weights = std::vector<float>(n_atoms)};
  int n = 0;
  // The first of every run, then the second, ...: runs are neighbours.
  const int64_t n_runs = set.n_vectors() / kRunRows;
  for (int64_t i = 0; i < set.n_vectors() && n < n_atoms; ++i) {
    const int64_t place = i % n_runs * kRunRows + i / n_runs;
    const std::span<const float> vector(vectors.data() + place * dim, dim);
    if (std::all_of(vector.begin(), vector.end(), [](float each) { return each == 0; })) continue;
    AtomFrom(vector, seed, n, atoms.row(n));
    ++n;
  }
  if (n == n_atoms) return atoms;
  return absl::InvalidArgumentError(fmt::format(
      "{}: {} of {} vectors are not zero, fewer than the {} atoms; give more text, or fewer atoms "
      "(--n_atoms)",
      DictionaryName(dictionary), n, set.n_vectors(), n_atoms));
}

}  // namespace lexico::train_dictionary

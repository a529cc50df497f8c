#include "tools/eval/sweep/recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/api/omp_encode.h"
#include "kernels/api/unit_atoms.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "tools/eval/sweep/coherence.h"

namespace lexico::eval {
namespace {

// Vectors and what they were made of.
struct Synthetic {
  std::vector<float> x;         // [n, head_dim]
  std::vector<uint16_t> atoms;  // [n, sparsity], ascending
};

// The first `n` of the result are that many different numbers below `n_all`, in ascending order.
std::vector<uint16_t> Choose(int64_t n, int64_t n_all, std::mt19937_64& random) {
  std::vector<uint16_t> chosen;
  while (static_cast<int64_t>(chosen.size()) < n) {
    const auto atom = static_cast<uint16_t>(random() % static_cast<uint64_t>(n_all));
    if (std::find(chosen.begin(), chosen.end(), atom) == chosen.end()) chosen.push_back(atom);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

Synthetic MakeVectors(const kernels::UnitAtoms& dictionary, int64_t n, int64_t sparsity,
                      double noise, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> magnitude(1, 2);
  std::normal_distribution<double> normal;
  const int dim = dictionary.head_dim;
  Synthetic made;
  std::vector<double> x(dim);
  for (int64_t i = 0; i < n; ++i) {
    std::fill(x.begin(), x.end(), 0.0);
    for (const uint16_t atom : Choose(sparsity, dictionary.n_atoms, random)) {
      made.atoms.push_back(atom);
      const double coefficient = (random() & 1) != 0 ? magnitude(random) : -magnitude(random);
      for (int d = 0; d < dim; ++d) x[d] += coefficient * dictionary.rows[atom * dim + d];
    }
    const double norm = std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
    const double unit = noise * norm / std::sqrt(static_cast<double>(dim));
    for (const double value : x)
      made.x.push_back(static_cast<float>(value + unit * normal(random)));
  }
  return made;
}

struct Found {
  double exact_support = 0;
  double atoms_found = 0;
};

Found Compare(const std::vector<uint16_t>& truth, std::vector<uint16_t> found, int64_t sparsity) {
  const auto n = static_cast<int64_t>(truth.size()) / sparsity;
  Found sums;
  for (int64_t i = 0; i < n; ++i) {
    const auto begin = found.begin() + i * sparsity;
    std::sort(begin, begin + sparsity);
    std::vector<uint16_t> both;
    std::set_intersection(truth.begin() + i * sparsity, truth.begin() + (i + 1) * sparsity, begin,
                          begin + sparsity, std::back_inserter(both));
    sums.atoms_found += static_cast<double>(both.size()) / static_cast<double>(sparsity);
    if (static_cast<int64_t>(both.size()) == sparsity) sums.exact_support += 1;
  }
  return {sums.exact_support / static_cast<double>(n), sums.atoms_found / static_cast<double>(n)};
}

}  // namespace

std::vector<float> RandomAtoms(int64_t n_atoms, int64_t head_dim, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<float> atoms;
  std::vector<double> atom(head_dim);
  for (int64_t i = 0; i < n_atoms; ++i) {
    for (double& x : atom) x = normal(random);
    const double norm = std::sqrt(std::inner_product(atom.begin(), atom.end(), atom.begin(), 0.0));
    for (const double x : atom) atoms.push_back(static_cast<float>(x / norm));
  }
  return atoms;
}

absl::StatusOr<ResultTable> SweepRecovery(const RecoveryOptions& options,
                                          kernels::TensorView dictionary,
                                          const kernels::Stream& stream) {
  LEXICO_ASSIGN_OR_RETURN(const kernels::UnitAtoms atoms, kernels::ReadUnitAtoms(dictionary));
  LEXICO_ASSIGN_OR_RETURN(const auto prepared, kernels::PrepareDictionary(dictionary, stream));
  const int sparsity_max =
      base::SparsityMax({.head_dim = atoms.head_dim, .n_atoms = atoms.n_atoms});
  for (const int64_t sparsity : options.sparsities) {
    if (sparsity < 1 || sparsity > sparsity_max) {
      return absl::InvalidArgumentError(
          fmt::format("a sparsity of {}; {} atoms of {} numbers allow 1 to {}", sparsity,
                      atoms.n_atoms, atoms.head_dim, sparsity_max));
    }
  }
  ResultTable table(
      "recovery",
      {{"sparsity"}, {"noise", 3}, {"exact_support", 4}, {"atoms_found", 4}, {"rel_error", 4}});
  const std::vector<float> coherence = AtomCoherence(atoms.rows, atoms.head_dim, stream);
  const double mu = *std::max_element(coherence.begin(), coherence.end());
  table.SetFact("n_atoms", int64_t{atoms.n_atoms});
  table.SetFact("head_dim", int64_t{atoms.head_dim});
  table.SetFact("mutual_coherence", mu);
  table.SetFact("guaranteed_below_sparsity", GuaranteedSparsity(mu));
  table.SetFact("vectors_a_row", options.n_vectors);
  const int64_t n = options.n_vectors;
  for (const double noise : options.noises) {
    for (const int64_t sparsity : options.sparsities) {
      const Synthetic made = MakeVectors(atoms, n, sparsity, noise, options.seed);
      std::vector<uint16_t> found(n * sparsity);
      std::vector<uint8_t> coefs(n * sparsity);
      std::vector<float> errors(n);
      kernels::OmpEncode({.x = {made.x.data(), {n, atoms.head_dim}},
                          .dictionary = prepared.get(),
                          .sparsity = static_cast<int>(sparsity),
                          .atoms = {found.data(), {n, sparsity}},
                          .coefs = {coefs.data(), {n, sparsity}},
                          .rel_error = {errors.data(), {n}}},
                         stream);
      const Found share = Compare(made.atoms, std::move(found), sparsity);
      const double error = std::accumulate(errors.begin(), errors.end(), 0.0);
      table.Add({sparsity, noise, share.exact_support, share.atoms_found,
                 error / static_cast<double>(n)});
    }
  }
  return table;
}

}  // namespace lexico::eval

#include "tools/train_dictionary/atom_update.h"

#include <cmath>

namespace lexico::train_dictionary {
namespace {

// Below this norm a sum of vectors is rounding: the atom keeps its direction.
constexpr double kNormMin = 1e-12;

float Dot(const float* a, const float* b, int n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; ++j) sum += a[j] * b[j];
  return sum;
}

// y += factor * x
void AddScaled(float factor, const float* x, int n, float* y) {
#pragma omp simd
  for (int j = 0; j < n; ++j) y[j] += factor * x[j];
}

// Places of codes [n * sparsity] by atom: those of atom a are places[begin[a] .. begin[a + 1]).
struct Uses {
  std::vector<int64_t> begin;
  std::vector<int64_t> places;
};

Uses ByAtom(const Codes& codes, int n_atoms) {
  Uses uses;
  uses.begin.assign(n_atoms + 1, 0);
  for (size_t p = 0; p < codes.atoms.size(); ++p) {
    if (codes.coefs[p] != 0) ++uses.begin[codes.atoms[p] + 1];
  }
  for (int a = 0; a < n_atoms; ++a) uses.begin[a + 1] += uses.begin[a];
  uses.places.resize(uses.begin.back());
  std::vector<int64_t> next(uses.begin.begin(), uses.begin.end() - 1);
  for (size_t p = 0; p < codes.atoms.size(); ++p) {
    if (codes.coefs[p] != 0) uses.places[next[codes.atoms[p]]++] = static_cast<int64_t>(p);
  }
  return uses;
}

}  // namespace

void UpdateAtoms(const Codes& codes, float memory, std::span<float> x, Atoms& atoms) {
  const int dim = atoms.head_dim;
  for (size_t p = 0; p < codes.atoms.size(); ++p) {
    if (codes.coefs[p] == 0) continue;
    float* const r = x.data() + static_cast<int64_t>(p) / codes.sparsity * dim;
    AddScaled(-codes.coefs[p], atoms.row(codes.atoms[p]).data(), dim, r);
  }
  const Uses uses = ByAtom(codes, atoms.n_atoms);
  std::vector<float> updated(dim);
  for (int a = 0; a < atoms.n_atoms; ++a) {
    const std::span<const int64_t> places(uses.places.data() + uses.begin[a],
                                          uses.begin[a + 1] - uses.begin[a]);
    float* const d = atoms.row(a).data();
    double weight = atoms.weights[a];
    for (const int64_t p : places) weight += double{codes.coefs[p]} * codes.coefs[p];
    atoms.weights[a] = static_cast<float>(memory * weight);
    atoms.n_uses[a] += static_cast<int64_t>(places.size());
    for (int j = 0; j < dim; ++j) updated[j] = static_cast<float>(weight) * d[j];
    for (const int64_t p : places) {
      AddScaled(codes.coefs[p], x.data() + p / codes.sparsity * dim, dim, updated.data());
    }
    const double norm = std::sqrt(double{Dot(updated.data(), updated.data(), dim)});
    if (places.empty() || !(norm > kNormMin)) continue;
    for (float& each : updated) each = static_cast<float>(each / norm);
    const float cosine = Dot(d, updated.data(), dim);
    for (const int64_t p : places) {
      float* const r = x.data() + p / codes.sparsity * dim;
      const float c = codes.coefs[p];
      const float better = Dot(r, updated.data(), dim) + c * cosine;
      AddScaled(c, d, dim, r);
      AddScaled(-better, updated.data(), dim, r);
    }
    std::copy(updated.begin(), updated.end(), d);
  }
}

}  // namespace lexico::train_dictionary

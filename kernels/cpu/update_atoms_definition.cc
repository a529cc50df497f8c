#include "kernels/cpu/update_atoms_definition.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/api/omp_encode.h"

namespace lexico::kernels::definition {
namespace {

double NormOf(const double* x, int64_t n) {
  double squares = 0;
  for (int64_t j = 0; j < n; ++j) squares += x[j] * x[j];
  return std::sqrt(squares);
}

}  // namespace

void UpdateAtoms(const UpdateAtomsArgs& args, MutableTensorView magnitude) {
  const int64_t dim = args.x.dim(1);
  const int64_t sparsity = args.atoms.dim(1);
  const int64_t n_atoms = args.rows.dim(0);
  auto* const rows = args.rows.as_mutable<float>();
  std::vector<double> g(n_atoms * dim);
  std::vector<double> terms(n_atoms * dim);
  std::vector<double> squares(n_atoms);
  for (int64_t i = 0; i < args.x.dim(0); ++i) {
    const auto code = [&](int64_t j, int64_t* atom) {
      *atom = args.atoms.as<uint16_t>()[i * sparsity + j];
      return double{E4m3ToFloat(args.coefs.as<uint8_t>()[i * sparsity + j])};
    };
    std::vector<double> residual(dim);
    std::vector<double> residual_terms(dim);
    const double counts =
        double{kUpdateErrorFloor} /
        std::max(double{args.rel_error.as<float>()[i]}, double{kUpdateErrorFloor});
    int64_t atom = 0;
    for (int64_t k = 0; k < dim; ++k) {
      residual[k] = args.x.as<float>()[i * dim + k];
      residual_terms[k] = std::abs(residual[k]);
      for (int64_t j = 0; j < sparsity; ++j) {
        const double term = code(j, &atom) * rows[atom * dim + k];
        residual[k] -= term;
        residual_terms[k] += std::abs(term);
      }
    }
    for (int64_t j = 0; j < sparsity; ++j) {
      const double c = code(j, &atom);
      if (c == 0) continue;
      squares[atom] += counts * c * c;
      ++args.n_uses.as_mutable<int32_t>()[atom];
      for (int64_t k = 0; k < dim; ++k) {
        g[atom * dim + k] += counts * c * residual[k];
        terms[atom * dim + k] += counts * std::abs(c) * residual_terms[k] + 1;
      }
    }
  }
  for (int64_t a = 0; a < n_atoms; ++a) {
    const double weight = args.weights.as<float>()[a] + squares[a];
    args.weights.as_mutable<float>()[a] = static_cast<float>(args.memory * weight);
    for (int64_t k = 0; k < dim; ++k) {
      const double term = weight * rows[a * dim + k];
      g[a * dim + k] += term;
      terms[a * dim + k] += std::abs(term);
    }
    const double norm = NormOf(g.data() + a * dim, dim);
    const bool turns = squares[a] > 0 && norm > kUpdateNormMin;
    const double terms_norm = NormOf(terms.data() + a * dim, dim);
    for (int64_t k = 0; k < dim; ++k) {
      float& d = rows[a * dim + k];
      if (turns) d = static_cast<float>(g[a * dim + k] / norm);
      magnitude.as_mutable<float>()[a * dim + k] =
          turns ? static_cast<float>((terms[a * dim + k] + std::abs(d) * terms_norm) / norm) : 0;
    }
  }
}

}  // namespace lexico::kernels::definition

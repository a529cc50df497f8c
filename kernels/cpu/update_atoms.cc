// Residuals first, vector by vector; then the codes in the order of their atoms, by counting; then
// atom by atom, each from its own codes in their order. So no sum depends on the threads. Rows and
// residuals come from L2: 8 * sparsity * head_dim bytes a vector, a twentieth of what coding the
// vector takes.
#include "kernels/cpu/update_atoms.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/e4m3.h"

namespace lexico::kernels::cpu {
namespace {

// y += factor * x
void AddScaled(float factor, const float* x, int64_t n, float* y) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) y[j] += factor * x[j];
}

std::vector<float> Residuals(const UpdateAtomsArgs& args, int threads) {
  const int64_t n_vectors = args.x.dim(0);
  const int64_t dim = args.x.dim(1);
  const int64_t sparsity = args.atoms.dim(1);
  const float* const x = args.x.as<float>();
  std::vector<float> residuals(x, x + n_vectors * dim);
#pragma omp parallel for num_threads(threads)
  for (int64_t i = 0; i < n_vectors; ++i) {
    for (int64_t p = i * sparsity; p < (i + 1) * sparsity; ++p) {
      const float c = E4m3Values()[args.coefs.as<uint8_t>()[p]];
      if (c == 0) continue;
      AddScaled(-c, args.rows.as<float>() + args.atoms.as<uint16_t>()[p] * dim, dim,
                residuals.data() + i * dim);
    }
  }
  return residuals;
}

// Places of codes by atom: those of atom a are places[begin[a] .. begin[a + 1]), in their order.
struct Uses {
  std::vector<int64_t> begin;
  std::vector<int64_t> places;
};

Uses ByAtom(const UpdateAtomsArgs& args) {
  const auto* const atoms = args.atoms.as<uint16_t>();
  const auto* const coefs = args.coefs.as<uint8_t>();
  const int64_t n_atoms = args.rows.dim(0);
  Uses uses;
  uses.begin.assign(n_atoms + 1, 0);
  for (int64_t p = 0; p < args.atoms.size(); ++p) {
    LEXICO_CHECK_LT(atoms[p], n_atoms);
    if (E4m3Values()[coefs[p]] != 0) ++uses.begin[atoms[p] + 1];
  }
  for (int64_t a = 0; a < n_atoms; ++a) uses.begin[a + 1] += uses.begin[a];
  uses.places.resize(uses.begin.back());
  std::vector<int64_t> next(uses.begin.begin(), uses.begin.end() - 1);
  for (int64_t p = 0; p < args.atoms.size(); ++p) {
    if (E4m3Values()[coefs[p]] != 0) uses.places[next[atoms[p]]++] = p;
  }
  return uses;
}

void Turn(const UpdateAtomsArgs& args, const Uses& uses, const std::vector<float>& residuals,
          int64_t atom, float* sum) {
  const int64_t dim = args.x.dim(1);
  float* const d = args.rows.as_mutable<float>() + atom * dim;
  double weight = args.weights.as<float>()[atom];
  for (int64_t j = 0; j < dim; ++j) sum[j] = 0;
  for (int64_t u = uses.begin[atom]; u < uses.begin[atom + 1]; ++u) {
    const int64_t place = uses.places[u];
    const int64_t vector = place / args.atoms.dim(1);
    const float c = E4m3Values()[args.coefs.as<uint8_t>()[place]];
    const float counts =
        kUpdateErrorFloor / std::max(args.rel_error.as<float>()[vector], kUpdateErrorFloor);
    weight += double{counts} * c * c;
    AddScaled(counts * c, residuals.data() + vector * dim, dim, sum);
  }
  const int64_t n = uses.begin[atom + 1] - uses.begin[atom];
  args.weights.as_mutable<float>()[atom] = static_cast<float>(args.memory * weight);
  args.n_uses.as_mutable<int32_t>()[atom] += static_cast<int32_t>(n);
  double squares = 0;
  for (int64_t j = 0; j < dim; ++j) {
    sum[j] += static_cast<float>(weight) * d[j];
    squares += double{sum[j]} * sum[j];
  }
  const double norm = std::sqrt(squares);
  if (n == 0 || !(norm > kUpdateNormMin)) return;
  for (int64_t j = 0; j < dim; ++j) d[j] = static_cast<float>(sum[j] / norm);
}

}  // namespace

void UpdateAtoms(const UpdateAtomsArgs& args, const Stream& stream) {
  const std::vector<float> residuals = Residuals(args, stream.threads());
  const Uses uses = ByAtom(args);
#pragma omp parallel num_threads(stream.threads())
  {
    std::vector<float> sum(args.x.dim(1));
#pragma omp for schedule(dynamic, 16)
    for (int64_t a = 0; a < args.rows.dim(0); ++a) Turn(args, uses, residuals, a, sum.data());
  }
}

}  // namespace lexico::kernels::cpu

#include "kernels/cpu/omp_encode_definition.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/dictionary.h"

namespace lexico::kernels::definition {
namespace {

using Vector = std::vector<double>;

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void AddScaled(Vector& to, double factor, const Vector& from) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += factor * from[i];
}

Vector Widen(const float* values, int n) { return Vector(values, values + n); }

// Best and second best |<r, d>| over the atoms that may still be chosen; atom -1 if there are none.
OmpPick BestAtom(const Vector& residual, const cpu::Dictionary& dictionary,
                 const std::vector<bool>& excluded) {
  OmpPick best{.atom = -1, .score = -1, .runner_up = 0};
  for (int a = 0; a < dictionary.n_atoms(); ++a) {
    if (excluded[a]) continue;
    const double score = std::abs(Dot(residual, Widen(dictionary.row(a), dictionary.head_dim())));
    if (score > best.score) {
      best.runner_up = std::max(best.score, 0.0);
      best.score = score;
      best.atom = a;
    } else {
      best.runner_up = std::max(best.runner_up, score);
    }
  }
  return best;
}

// The chosen atoms as q R: orthonormal columns q and upper triangular R, by Gram-Schmidt done twice
// ("twice is enough", Giraud et al. 2005). Least squares over the chosen atoms is R c = q^T x.
struct Factor {
  std::vector<Vector> q;
  std::vector<Vector> r;  // r[k][j], j <= k: <q_j, d_k>

  // False, and nothing changes, when the atom lies within kPivotMin of the span.
  bool Add(const Vector& atom) {
    Vector rest = atom;
    Vector column(q.size() + 1, 0.0);
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t j = 0; j < q.size(); ++j) {
        const double part = Dot(q[j], rest);
        column[j] += part;
        AddScaled(rest, -part, q[j]);
      }
    }
    const double pivot = std::sqrt(Dot(rest, rest));
    if (pivot < kPivotMin) return false;
    column.back() = pivot;
    for (double& value : rest) value /= pivot;
    q.push_back(std::move(rest));
    r.push_back(std::move(column));
    return true;
  }

  Vector Solve(const Vector& x) const {
    const int n = static_cast<int>(q.size());
    Vector c(n);
    for (int k = n - 1; k >= 0; --k) {
      double value = Dot(q[k], x);
      for (int j = k + 1; j < n; ++j) value -= r[j][k] * c[j];
      c[k] = value / r[k][k];
    }
    return c;
  }
};

void EncodeOne(const OmpEncodeArgs& args, int64_t i) {
  const int head_dim = args.dictionary->head_dim();
  const int sparsity = args.sparsity;
  const float* x = args.x.as<float>() + i * head_dim;
  uint16_t* atoms = args.atoms.as_mutable<uint16_t>() + i * sparsity;
  uint8_t* coefs = args.coefs.as_mutable<uint8_t>() + i * sparsity;
  float& rel_error = args.rel_error.as_mutable<float>()[i];
  std::fill_n(atoms, sparsity, uint16_t{0});
  std::fill_n(coefs, sparsity, uint8_t{0});
  float* coefficients = args.coefficients.data == nullptr
                            ? nullptr
                            : args.coefficients.as_mutable<float>() + i * sparsity;
  if (coefficients != nullptr) std::fill_n(coefficients, sparsity, 0.0f);

  const Vector exact = Widen(x, head_dim);
  const double norm = std::sqrt(Dot(exact, exact));
  if (!std::isfinite(norm)) {
    rel_error = std::numeric_limits<float>::quiet_NaN();
    if (args.n_non_finite != nullptr) ++*args.n_non_finite;
    return;
  }
  rel_error = 0;
  if (norm == 0) return;

  const OmpPursuit pursuit = Pursue(x, *args.dictionary, sparsity, args.error_threshold);
  Vector rest = exact;
  const cpu::Dictionary& dictionary = cpu::AsCpu(*args.dictionary);
  for (size_t j = 0; j < pursuit.picks.size(); ++j) {
    atoms[j] = static_cast<uint16_t>(pursuit.picks[j].atom);
    const auto coefficient = static_cast<float>(pursuit.coefficients[j]);
    if (coefficients != nullptr) coefficients[j] = coefficient;
    coefs[j] = FloatToE4m3(coefficient);
    AddScaled(rest, -E4m3ToFloat(coefs[j]), Widen(dictionary.row(atoms[j]), head_dim));
  }
  rel_error = static_cast<float>(std::sqrt(Dot(rest, rest)) / norm);
}

}  // namespace

OmpPursuit Pursue(const float* x, const PreparedDictionary& dictionary, int sparsity,
                  double error_threshold) {
  return PursueAmong(Widen(x, dictionary.head_dim()), dictionary,
                     std::vector<bool>(dictionary.n_atoms(), false), sparsity, error_threshold);
}

OmpPursuit PursueAmong(const std::vector<double>& exact, const PreparedDictionary& prepared,
                       std::vector<bool> excluded, int sparsity, double error_threshold) {
  const cpu::Dictionary& dictionary = cpu::AsCpu(prepared);
  const int head_dim = dictionary.head_dim();
  const double norm = std::sqrt(Dot(exact, exact));
  const double stop = std::max(error_threshold, kResidualStop) * norm;

  OmpPursuit pursuit;
  Vector residual = exact;
  pursuit.residual_norm = norm;
  Factor factor;
  while (static_cast<int>(pursuit.picks.size()) < sparsity && pursuit.residual_norm > stop) {
    const OmpPick pick = BestAtom(residual, dictionary, excluded);
    if (pick.atom < 0 || pick.score <= kScoreStop * norm) break;
    excluded[pick.atom] = true;
    if (!factor.Add(Widen(dictionary.row(pick.atom), head_dim))) continue;
    pursuit.picks.push_back(pick);
    pursuit.coefficients = factor.Solve(exact);
    residual = exact;
    for (size_t j = 0; j < pursuit.picks.size(); ++j) {
      AddScaled(residual, -pursuit.coefficients[j],
                Widen(dictionary.row(pursuit.picks[j].atom), head_dim));
    }
    pursuit.residual_norm = std::sqrt(Dot(residual, residual));
  }
  return pursuit;
}

void OmpEncode(const OmpEncodeArgs& args) {
  for (int64_t i = 0; i < args.x.dim(0); ++i) EncodeOne(args, i);
}

}  // namespace lexico::kernels::definition

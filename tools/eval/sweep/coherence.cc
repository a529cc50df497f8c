#include "tools/eval/sweep/coherence.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/api/matmul.h"
#include "proto/base/check.h"

namespace lexico::eval {
namespace {

constexpr int64_t kRows = 256;  // of products at a time

}  // namespace

std::vector<float> AtomCoherence(std::span<const float> atoms, int head_dim,
                                 const kernels::Stream& stream) {
  const auto n = static_cast<int64_t>(atoms.size()) / head_dim;
  const auto matrix = kernels::PrepareMatrix({{atoms.data(), {n, head_dim}}}, stream);
  LEXICO_CHECK(matrix.ok());  // refused for a device's memory only
  std::vector<float> largest(n, 0);
  std::vector<float> products(std::min(n, kRows) * n);
  for (int64_t first = 0; first < n; first += kRows) {
    const int64_t rows = std::min(kRows, n - first);
    kernels::MatMul({&atoms[first * head_dim], {rows, head_dim}}, **matrix,
                    {products.data(), {rows, n}}, false, stream);
    for (int64_t i = 0; i < rows; ++i) {
      products[i * n + first + i] = 0;  // with itself
      for (int64_t j = 0; j < n; ++j) {
        largest[first + i] = std::max(largest[first + i], std::abs(products[i * n + j]));
      }
    }
  }
  return largest;
}

double GuaranteedSparsity(double mutual_coherence) {
  if (mutual_coherence <= 0) return std::numeric_limits<double>::infinity();
  return (1 + 1 / mutual_coherence) / 2;
}

double EffectiveDim(std::span<const float> atoms, int head_dim) {
  const size_t n = atoms.size() / head_dim;
  std::vector<double> c(static_cast<size_t>(head_dim) * head_dim, 0);
  for (size_t i = 0; i < n; ++i) {
    const float* atom = &atoms[i * head_dim];
    for (int a = 0; a < head_dim; ++a) {
      for (int b = 0; b < head_dim; ++b) {
        c[a * head_dim + b] += static_cast<double>(atom[a]) * atom[b];
      }
    }
  }
  double trace = 0;
  double squares = 0;
  for (int a = 0; a < head_dim; ++a) trace += c[a * head_dim + a];
  for (const double x : c) squares += x * x;
  return squares > 0 ? trace * trace / squares : 0;
}

}  // namespace lexico::eval

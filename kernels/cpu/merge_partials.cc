// Both the definition and the fast form: a decode step merges n_heads * head_dim numbers a part,
// some microseconds even in double, so there is nothing to gain from a second version.
#include "kernels/cpu/merge_partials.h"

#include <cmath>
#include <limits>
#include <vector>

namespace lexico::kernels::cpu {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// weights[p] = exp(max_score[p] - m) / sum, 0 for an empty part; all 0 when every part is empty.
void Weights(std::span<const AttentionPart> parts, int64_t head, std::vector<double>& weights) {
  double m = kMinusInfinity;
  for (const AttentionPart& part : parts) {
    m = std::max(m, static_cast<double>(part.max_score.as<float>()[head]));
  }
  double sum = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    const double score = parts[p].max_score.as<float>()[head];
    weights[p] = score == kMinusInfinity ? 0.0 : std::exp(score - m);
    if (weights[p] != 0) sum += weights[p] * parts[p].sum_exp.as<float>()[head];
  }
  for (double& weight : weights) {
    if (weight != 0) weight /= sum;
  }
}

}  // namespace

void MergePartials(std::span<const AttentionPart> parts, MutableTensorView out,
                   const Stream& stream) {
  const int64_t n_rows = out.dim(0) * out.dim(1);
  const int64_t head_dim = out.dim(2);
  // A thread costs microseconds to wake: only large batches are worth it.
  const int threads = n_rows >= 1024 ? stream.threads() : 1;
#pragma omp parallel num_threads(threads)
  {
    std::vector<double> weights(parts.size());
#pragma omp for
    for (int64_t row = 0; row < n_rows; ++row) {
      Weights(parts, row, weights);
      float* to = out.as_mutable<float>() + row * head_dim;
      for (int64_t i = 0; i < head_dim; ++i) {
        double value = 0;
        for (size_t p = 0; p < parts.size(); ++p) {
          // An empty part is not read: its sums may be anything.
          if (weights[p] != 0) value += weights[p] * parts[p].out.as<float>()[row * head_dim + i];
        }
        to[i] = static_cast<float>(value);
      }
    }
  }
}

}  // namespace lexico::kernels::cpu

#include "tools/bench_serving/statistics.h"

#include <algorithm>
#include <numeric>

#include "proto/base/check.h"

namespace lexico::bench_serving {

double Percentile(const std::vector<double>& sorted, double fraction) {
  LEXICO_CHECK(!sorted.empty());
  LEXICO_CHECK(fraction >= 0 && fraction <= 1);
  const double rank = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = rank - static_cast<double>(below);
  return sorted[below] + part * (sorted[above] - sorted[below]);
}

Summary Summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {.n = values.size(),
          .mean = sum / static_cast<double>(values.size()),
          .p50 = Percentile(values, 0.5),
          .p90 = Percentile(values, 0.9),
          .p99 = Percentile(values, 0.99),
          .max = values.back()};
}

}  // namespace lexico::bench_serving

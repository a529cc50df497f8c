#include "tools/bench_serving/arrivals.h"

#include <cmath>
#include <random>

#include "proto/base/check.h"

namespace lexico::bench_serving {

std::vector<double> PoissonArrivals(double rate, int n, uint64_t seed) {
  LEXICO_CHECK(rate > 0);
  // Not std::exponential_distribution: its numbers are each library's own.
  std::mt19937_64 bits(seed);
  std::vector<double> times;
  times.reserve(static_cast<size_t>(n));
  double now = 0;
  for (int i = 0; i < n; ++i) {
    const double uniform = std::ldexp(static_cast<double>(bits() >> 11), -53);  // in [0, 1)
    now -= std::log1p(-uniform) / rate;
    times.push_back(now);
  }
  return times;
}

}  // namespace lexico::bench_serving

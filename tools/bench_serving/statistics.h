// What a list of measured times is reduced to.
#pragma once

#include <cstddef>
#include <vector>

namespace lexico::bench_serving {

// In the unit of the values; all 0 when there are none.
struct Summary {
  size_t n = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;

  bool operator==(const Summary&) const = default;
};

// The value below which `fraction` of the values lie, between two of them by linear interpolation
// (of 1..5 the 0.9 is 4.6); the only value of one. `sorted` rises.
// REQUIRES: not empty, 0 <= fraction <= 1.
double Percentile(const std::vector<double>& sorted, double fraction);

// In any order.
Summary Summarize(std::vector<double> values);

}  // namespace lexico::bench_serving

#include "kernels/bench/bench.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace lexico::kernels::bench {
namespace {

constexpr int kRepetitionsMin = 3;

double Seconds(std::chrono::steady_clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

}  // namespace

Bench::Bench(Stream stream, double seconds_per_case)
    : stream_(stream), seconds_per_case_(seconds_per_case) {}

Result& Bench::Measure(const std::string& op, const Case& work, const std::function<void()>& body) {
  body();
  std::vector<double> seconds;
  double total = 0;
  while (static_cast<int>(seconds.size()) < kRepetitionsMin || total < seconds_per_case_) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    seconds.push_back(Seconds(std::chrono::steady_clock::now() - begin));
    total += seconds.back();
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  Result result;
  result.op = op;
  result.work = work;
  result.median_us = seconds[seconds.size() / 2] * 1e6;
  result.repetitions = static_cast<int>(seconds.size());
  return results_.emplace_back(std::move(result));
}

}  // namespace lexico::kernels::bench

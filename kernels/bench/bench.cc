#include "kernels/bench/bench.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace lexico::kernels::bench {
namespace {

constexpr int kRepetitionsMin = 3;

double Seconds(std::chrono::steady_clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

// CPU time says what a call costs on a machine that others use too.
double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double Median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

}  // namespace

Bench::Bench(Stream stream, double seconds_per_case)
    : stream_(stream), seconds_per_case_(seconds_per_case) {}

Result& Bench::Measure(const std::string& op, const Case& work, const std::function<void()>& body) {
  return results_.emplace_back(stream_.device() != nullptr ? OnDevice(op, work, body)
                                                           : OnCpu(op, work, body));
}

Result Bench::OnDevice(const std::string& op, const Case& work,
                       const std::function<void()>& body) const {
  const double once_us = stream_.device()->ReplayMicroseconds(body, 1)[0];
  const double n = std::clamp(1e6 * seconds_per_case_ / once_us, 20.0, 1000.0);
  std::vector<double> us = stream_.device()->ReplayMicroseconds(body, static_cast<int>(n));
  return {.op = op, .work = work, .median_us = Median(us), .repetitions = static_cast<int>(n)};
}

Result Bench::OnCpu(const std::string& op, const Case& work,
                    const std::function<void()>& body) const {
  body();
  std::vector<double> seconds;
  std::vector<double> cpu_seconds;
  double total = 0;
  while (static_cast<int>(seconds.size()) < kRepetitionsMin || total < seconds_per_case_) {
    const double cpu_begin = CpuSeconds();
    const auto begin = std::chrono::steady_clock::now();
    body();
    seconds.push_back(Seconds(std::chrono::steady_clock::now() - begin));
    cpu_seconds.push_back(CpuSeconds() - cpu_begin);
    total += seconds.back();
  }
  Result result;
  result.op = op;
  result.work = work;
  result.median_us = Median(seconds) * 1e6;
  result.cpu_us = Median(cpu_seconds) * 1e6;
  result.repetitions = static_cast<int>(seconds.size());
  return result;
}

}  // namespace lexico::kernels::bench

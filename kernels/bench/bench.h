// The frame of lexico-bench-kernels: an op's file measures cases, the frame prints them next to
// what this machine can do.
//
// To add an op: write kernels/bench/<op>_bench.cc with one function `void <Op>Suite(Bench&)`,
// declare it in suites.h, add a row to the table there. Not thread-safe.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/api/stream.h"

namespace lexico::kernels::bench {

// What the machine can do at best, measured in the same run with the same number of threads.
struct Ceilings {
  // Summing an array far larger than the caches; of a GPU, copying one: bytes read and written.
  double read_gb_per_s = 0;
  double f32_gflop_per_s = 0;  // independent FP32 multiply-adds in registers (2 FLOP each)
  std::string vector_unit;     // "AVX2": the widest that the kernels will use; or the GPU's name
};

// Takes about a second.
Ceilings MeasureCeilings(const Stream& stream);

// One shape of one op, with the work a call does at least, by arithmetic.
struct Case {
  std::string shape;      // "n_atoms 4096 sparsity 16 vectors 4096"
  std::string item_name;  // "vectors"
  double items = 0;       // per call
  double bytes = 0;       // that must come from memory per call; 0: does not apply
  double flops = 0;       // per call; 0: does not apply
};

struct Result {
  std::string op;
  Case work;
  double median_us = 0;  // wall clock
  double cpu_us = 0;     // median of the CPU time of all threads, waiting in a spin included
  int repetitions = 0;
  std::string note;  // anything else worth a column, "pick agreement 99.8 %"
};

class Bench {
 public:
  Bench(Stream stream, double seconds_per_case);

  const Stream& stream() const { return stream_; }

  // Calls `body` once to warm up, then repeatedly for the seconds given to a case (at least 3
  // times), and records the medians. On a GPU the body's ops are recorded as a graph and replayed,
  // at least 20 times, and timed by the device.
  Result& Measure(const std::string& op, const Case& work, const std::function<void()>& body);

  const std::vector<Result>& results() const { return results_; }

 private:
  Result OnDevice(const std::string& op, const Case& work, const std::function<void()>& body) const;
  Result OnCpu(const std::string& op, const Case& work, const std::function<void()>& body) const;

  Stream stream_;
  double seconds_per_case_;
  std::vector<Result> results_;
};

}  // namespace lexico::kernels::bench

// lexico-bench-kernels: speed of every op next to the limit of this machine.
//
//   lexico-bench-kernels [--op NAME] [--device cpu|cuda] [--threads N] [--seconds S] [--json]
//
// Share of ceiling is the larger of (bytes / time) / read bandwidth and (FLOP / time) / FP32 peak:
// the resource that a perfect implementation of the same arithmetic would run out of first.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/bench/suites.h"
#include "kernels/cpu/openmp.h"
#include "proto/base/options.h"

namespace lexico::kernels::bench {
namespace {

struct Rates {
  double items_per_s = 0;
  double gb_per_s = 0;
  double gflop_per_s = 0;
  double share_of_ceiling = 0;
};

Rates RatesOf(const Result& result, const Ceilings& ceilings) {
  const double seconds = result.median_us * 1e-6;
  Rates rates;
  rates.items_per_s = result.work.items / seconds;
  rates.gb_per_s = result.work.bytes / seconds * 1e-9;
  rates.gflop_per_s = result.work.flops / seconds * 1e-9;
  rates.share_of_ceiling = std::max(rates.gb_per_s / ceilings.read_gb_per_s,
                                    rates.gflop_per_s / ceilings.f32_gflop_per_s);
  return rates;
}

void PrintTable(const Bench& bench, const Ceilings& ceilings) {
  fmt::print("{} threads, {}: read {:.1f} GB/s, FP32 {:.1f} GFLOP/s\n", bench.stream().threads(),
             ceilings.vector_unit, ceilings.read_gb_per_s, ceilings.f32_gflop_per_s);
  fmt::print("{:<18} {:<58} {:>12} {:>12} {:>18} {:>8} {:>9} {:>8}\n", "op", "shape", "wall us",
             "cpu us", "items/s", "GB/s", "GFLOP/s", "ceiling");
  for (const Result& result : bench.results()) {
    const Rates rates = RatesOf(result, ceilings);
    fmt::print("{:<18} {:<58} {:>12.1f} {:>12.1f} {:>10.4g} {:<7} {:>8.2f} {:>9.1f} {:>6.0f} %",
               result.op, result.work.shape, result.median_us, result.cpu_us, rates.items_per_s,
               result.work.item_name, rates.gb_per_s, rates.gflop_per_s,
               100 * rates.share_of_ceiling);
    fmt::print("{}{}\n", result.note.empty() ? "" : "  ", result.note);
  }
}

void PrintJson(const Bench& bench, const Ceilings& ceilings) {
  nlohmann::json out = {{"threads", bench.stream().threads()},
                        {"vector_unit", ceilings.vector_unit},
                        {"read_gb_per_s", ceilings.read_gb_per_s},
                        {"f32_gflop_per_s", ceilings.f32_gflop_per_s},
                        {"results", nlohmann::json::array()}};
  for (const Result& result : bench.results()) {
    const Rates rates = RatesOf(result, ceilings);
    out["results"].push_back({{"op", result.op},
                              {"shape", result.work.shape},
                              {"median_us", result.median_us},
                              {"cpu_us", result.cpu_us},
                              {"repetitions", result.repetitions},
                              {result.work.item_name + "_per_s", rates.items_per_s},
                              {"gb_per_s", rates.gb_per_s},
                              {"gflop_per_s", rates.gflop_per_s},
                              {"share_of_ceiling", rates.share_of_ceiling},
                              {"note", result.note}});
  }
  fmt::print("{}\n", out.dump(2));
}

int Main(int argc, char** argv) {
  CLI::App app{"Times the kernels and prints each speed next to the limit of this machine."};
  std::string op;
  int threads = 0;
  double seconds = 1.0;
  bool json = false;
  std::string device = "cpu";
  std::vector<std::string> names;
  for (const Suite& suite : kSuites) names.push_back(suite.op);
  app.add_option("--op", op, "Only this op")->check(CLI::IsMember(names));
  app.add_option("--device", device, "cpu, or cuda: the first GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--threads", threads, "OpenMP threads; 0: one per processor")
      ->check(CLI::Range(0, 1024));
  app.add_option("--seconds", seconds, "Seconds given to each case")->check(CLI::Range(0.01, 60.0));
  app.add_flag("--json", json, "Print JSON instead of a table");
  if (const absl::Status parsed = base::ParseCommandLine(app, argc, argv); !parsed.ok()) {
    fmt::print(absl::IsCancelled(parsed) ? stdout : stderr, "{}\n", std::string(parsed.message()));
    return absl::IsCancelled(parsed) ? 0 : 2;
  }

  absl::StatusOr<Stream> stream = Stream::Cpu(threads);
  if (device == "cuda") stream = Stream::Cuda({});
  if (!stream.ok()) {
    fmt::print(stderr, "error: {}\n", std::string(stream.status().message()));
    return 1;
  }
  Bench bench(*stream, seconds);
  const Ceilings ceilings = MeasureCeilings(bench.stream());
  for (const Suite& suite : kSuites) {
    if (!op.empty() && op != suite.op) continue;
    const auto run = device == "cuda" ? suite.run_on_gpu : suite.run;
    if (run != nullptr) run(bench);
  }
  if (json) {
    PrintJson(bench, ceilings);
  } else {
    PrintTable(bench, ceilings);
  }
  return 0;
}

}  // namespace
}  // namespace lexico::kernels::bench

int main(int argc, char** argv) {
  // As the worker does, so that the speeds are the worker's.
  lexico::kernels::cpu::EnsureShortSpin(argv);
  return lexico::kernels::bench::Main(argc, argv);
}

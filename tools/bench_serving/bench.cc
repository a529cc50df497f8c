#include "tools/bench_serving/bench.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "proto/base/status.h"
#include "tools/bench_serving/load.h"
#include "tools/bench_serving/options.h"
#include "tools/bench_serving/report.h"
#include "tools/cli/client.h"
#include "tools/cli/json.h"

namespace lexico::bench_serving {
namespace {

// What was measured before an error stays in `results`.
absl::Status Measure(const Options& options, const std::atomic<bool>& stop, std::ostream& err,
                     std::vector<ProfileResult>* results) {
  LEXICO_ASSIGN_OR_RETURN(const cli::Client client, cli::Client::Connect(options.globals));
  for (const std::string& profile : options.profiles) {
    if (stop) break;
    err << fmt::format("lexico-bench-serving: {}: {} visits\n", profile, options.sessions);
    LEXICO_ASSIGN_OR_RETURN(ProfileResult result, LoadProfile(client, options, profile, stop));
    results->push_back(std::move(result));
    LEXICO_RETURN_IF_ERROR(results->back().status);
  }
  return Verdict(*results);
}

}  // namespace

int Bench(int argc, const char* const* argv, const std::atomic<bool>& stop, std::ostream& out,
          std::ostream& err) {
  Options options;
  absl::Status status = ParseOptions(argc, argv, &options);
  if (absl::IsCancelled(status)) {
    out << std::string(status.message());
    return 0;
  }
  std::vector<ProfileResult> results;
  if (status.ok()) status = Measure(options, stop, err, &results);
  if (!results.empty()) {
    out << (options.globals.json ? cli::JsonLine(ReportToJson(options, results)) + "\n"
                                 : FormatReport(options, results));
  }
  if (!status.ok()) {
    err << fmt::format("lexico-bench-serving: {}: {}\n", absl::StatusCodeToString(status.code()),
                       std::string(status.message()));
  }
  return cli::ExitCode(status);
}

}  // namespace lexico::bench_serving

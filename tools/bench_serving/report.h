// What was measured, for people and for scripts.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench_serving/load.h"
#include "tools/bench_serving/options.h"

namespace lexico::bench_serving {

// Three tables: latencies; throughput and memory; refusals and errors by reason, where there are
// any. Ends with a newline.
std::string FormatReport(const Options& options, const std::vector<ProfileResult>& results);

// The same with every number as measured: seconds, bytes, tokens. tools/bench_serving/plot.py reads
// it. A ratio or mean of nothing is null.
nlohmann::ordered_json ReportToJson(const Options& options,
                                    const std::vector<ProfileResult>& results);

// OK when everything was measured, refusals included. Unavailable when the service went away, else
// Internal with the number of visits that failed or of sessions that may be left behind (named), or
// ResourceExhausted when not one visit of a profile was done.
absl::Status Verdict(const std::vector<ProfileResult>& results);

}  // namespace lexico::bench_serving

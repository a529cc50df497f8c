#include "tools/bench_serving/report.h"

#include <fmt/format.h>

#include <utility>

#include "absl/strings/str_join.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "tools/bench_serving/statistics.h"
#include "tools/cli/text_output.h"

namespace lexico::bench_serving {
namespace {

using Json = nlohmann::ordered_json;

struct Latency {
  const char* key;    // in JSON
  const char* label;  // in the table
  Summary summary;
};

std::vector<Latency> LatenciesOf(const Samples& samples) {
  return {{"append", "append", Summarize(samples.append)},
          {"first_token", "first token", Summarize(samples.first_token)},
          {"inter_token", "inter-token", Summarize(samples.inter_token)},
          {"answer", "answer", Summarize(samples.answer)},
          {"visit", "visit", Summarize(samples.visit)}};
}

std::string Duration(double seconds) { return cli::HumanDuration(absl::Seconds(seconds)); }

double PerSecond(const ProfileResult& result, int64_t n) {
  return result.wall_s > 0 ? static_cast<double>(n) / result.wall_s : 0;
}

double MeanOf(uint64_t bytes, int64_t n) {
  return static_cast<double>(bytes) / static_cast<double>(n);
}

double FractionOfFp16(const Tally& tally) {
  return static_cast<double>(tally.held_bytes) / static_cast<double>(tally.fp16_bytes);
}

std::string LatencyTable(const std::vector<ProfileResult>& results) {
  std::vector<std::vector<std::string>> rows;
  for (const ProfileResult& result : results) {
    for (const auto& [key, label, s] : LatenciesOf(result.tally.samples)) {
      if (s.n == 0) continue;
      rows.push_back({result.profile, label, std::to_string(s.n), Duration(s.mean), Duration(s.p50),
                      Duration(s.p90), Duration(s.p99), Duration(s.max)});
    }
  }
  return cli::FormatTable({"PROFILE", "LATENCY", "N", "MEAN", "P50", "P90", "P99", "MAX"}, rows);
}

std::string RateTable(const std::vector<ProfileResult>& results) {
  std::vector<std::vector<std::string>> rows;
  for (const ProfileResult& result : results) {
    const Tally& tally = result.tally;
    rows.push_back(
        {result.profile, std::to_string(tally.n_done), std::to_string(tally.n_refused),
         std::to_string(tally.n_failed), Duration(result.wall_s),
         fmt::format("{:.1f}", PerSecond(result, tally.n_generated_tokens)),
         fmt::format("{:.1f}", PerSecond(result, tally.n_prompt_tokens)),
         tally.n_memory == 0 ? "-" : base::HumanBytes(MeanOf(tally.held_bytes, tally.n_memory)),
         tally.fp16_bytes == 0 ? "-" : fmt::format("{:.1f} %", 100 * FractionOfFp16(tally))});
  }
  return cli::FormatTable({"PROFILE", "DONE", "REFUSED", "FAILED", "WALL", "GENERATED/S",
                           "PROMPT/S", "KV EACH", "OF FP16"},
                          rows);
}

std::string ReasonTable(const std::vector<ProfileResult>& results) {
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const std::string& profile, const char* kind, const auto& reasons) {
    for (const auto& [word, reason] : reasons) {
      rows.push_back({profile, kind, word, std::to_string(reason.n), reason.example});
    }
  };
  for (const ProfileResult& result : results) {
    add(result.profile, "refused", result.tally.refusals);
    add(result.profile, "error", result.tally.errors);
  }
  if (rows.empty()) return "";
  return "\n" + cli::FormatTable({"PROFILE", "KIND", "REASON", "N", "FIRST MESSAGE"}, rows);
}

Json ToJson(const Summary& summary) {
  return {{"n", summary.n},     {"mean", summary.mean}, {"p50", summary.p50},
          {"p90", summary.p90}, {"p99", summary.p99},   {"max", summary.max}};
}

Json ToJson(const std::map<std::string, Reason>& reasons) {
  Json out = Json::array();
  for (const auto& [word, reason] : reasons) {
    out.push_back({{"reason", word}, {"n", reason.n}, {"message", reason.example}});
  }
  return out;
}

Json MemoryToJson(const Tally& tally) {
  Json out = {{"n_sessions", tally.n_memory},
              {"bytes_mean", nullptr},
              {"fp16_bytes_mean", nullptr},
              {"fraction_of_fp16", nullptr}};
  if (tally.n_memory > 0) {
    out["bytes_mean"] = MeanOf(tally.held_bytes, tally.n_memory);
    out["fp16_bytes_mean"] = MeanOf(tally.fp16_bytes, tally.n_memory);
  }
  if (tally.fp16_bytes > 0) out["fraction_of_fp16"] = FractionOfFp16(tally);
  return out;
}

Json ToJson(const ProfileResult& result) {
  const Tally& tally = result.tally;
  Json latencies;
  for (const auto& [key, label, summary] : LatenciesOf(tally.samples)) {
    latencies[key] = ToJson(summary);
  }
  return {{"profile", result.profile},
          {"wall_seconds", result.wall_s},
          {"visits",
           {{"begun", tally.n_visits},
            {"done", tally.n_done},
            {"refused", tally.n_refused},
            {"failed", tally.n_failed},
            {"interrupted", tally.n_interrupted}}},
          {"latency_seconds", latencies},
          {"n_generated_tokens", tally.n_generated_tokens},
          {"n_prompt_tokens", tally.n_prompt_tokens},
          {"generated_tokens_per_second", PerSecond(result, tally.n_generated_tokens)},
          {"prompt_tokens_per_second", PerSecond(result, tally.n_prompt_tokens)},
          {"kv", MemoryToJson(tally)},
          {"refusals", ToJson(tally.refusals)},
          {"errors", ToJson(tally.errors)},
          {"n_retries", tally.n_retries},
          {"retry_wait_seconds", tally.retry_wait_s},
          {"sessions_left", tally.left}};
}

std::string LoadInWords(const Options& options) {
  const std::string load = options.is_open()
                               ? fmt::format("open loop, {} users a second", options.rate)
                               : fmt::format("closed loop, {} at once", options.users);
  const std::string document = options.document_path.empty()
                                   ? fmt::format("about {} tokens", options.document_tokens)
                                   : options.document_path;
  return fmt::format("{}: {}; {} visits a profile, document of {}, {} questions, {} new tokens\n",
                     options.globals.server, load, options.sessions, document, options.questions,
                     options.n_new);
}

}  // namespace

std::string FormatReport(const Options& options, const std::vector<ProfileResult>& results) {
  return LoadInWords(options) + "\n" + LatencyTable(results) + "\n" + RateTable(results) +
         ReasonTable(results);
}

Json ReportToJson(const Options& options, const std::vector<ProfileResult>& results) {
  Json out = {{"address", options.globals.server},
              {"model", options.model},
              {"loop", options.is_open() ? "open" : "closed"},
              {"rate", options.is_open() ? Json(options.rate) : Json(nullptr)},
              {"users", options.is_open() ? Json(nullptr) : Json(options.users)},
              {"sessions", options.sessions},
              {"document", options.document_path},
              {"document_tokens",
               options.document_path.empty() ? Json(options.document_tokens) : Json(nullptr)},
              {"questions", options.questions},
              {"new", options.n_new},
              {"ignore_end", options.ignore_end},
              {"seed", options.seed},
              {"profiles", Json::array()}};
  for (const ProfileResult& result : results) out["profiles"].push_back(ToJson(result));
  return out;
}

absl::Status Verdict(const std::vector<ProfileResult>& results) {
  for (const ProfileResult& result : results) {
    const Tally& tally = result.tally;
    if (!result.status.ok()) return base::Annotate(result.status, result.profile);
    if (!tally.left.empty()) {
      return absl::InternalError(fmt::format(
          "{}: {} sessions may be left behind: {}; `lexico session delete` deletes them",
          result.profile, tally.left.size(), absl::StrJoin(tally.left, " ")));
    }
    if (tally.n_failed > 0) {
      return absl::InternalError(
          fmt::format("{}: {} of {} visits failed; the reasons are in the report", result.profile,
                      tally.n_failed, tally.n_visits));
    }
    if (tally.n_done == 0 && tally.n_refused > 0) {
      return absl::ResourceExhaustedError(
          fmt::format("{}: 0 of {} visits were done, all others refused; lower the load",
                      result.profile, tally.n_visits));
    }
  }
  return absl::OkStatus();
}

}  // namespace lexico::bench_serving

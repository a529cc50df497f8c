// lexico models|metrics|version.
#include <fmt/format.h>

#include "proto/base/metrics.h"
#include "proto/base/status.h"
#include "tools/cli/client.h"
#include "tools/cli/command.h"
#include "tools/cli/json.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

struct MetricsOptions {
  bool markdown = false;
};

absl::Status Models(const Globals& globals, const NoOptions&) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  LEXICO_ASSIGN_OR_RETURN(const v1::ListModelsResponse response,
                          client.Call(&v1::Inference::Stub::ListModels, v1::ListModelsRequest()));
  if (globals.json) {
    PrintJson(ToJson(response));
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::ModelInfo& model : response.models()) {
    rows.push_back(
        {model.name(), std::to_string(model.n_layers()),
         fmt::format("{} / {} x {}", model.n_heads(), model.n_kv_heads(), model.head_dim()),
         HumanCount(model.max_positions()), HumanCount(model.n_atoms()),
         model.has_chat_template() ? "chat, raw" : "raw",
         fmt::format("{}", fmt::join(model.profiles(), " "))});
  }
  if (rows.empty()) {
    fmt::print("no models: no worker is registered\n");
    return absl::OkStatus();
  }
  fmt::print("{}", FormatTable({"MODEL", "LAYERS", "HEADS / KV x DIM", "POSITIONS", "ATOMS",
                                "FORMATS", "PROFILES"},
                               rows));
  return absl::OkStatus();
}

std::string KindWord(base::MetricKind kind) {
  switch (kind) {
    case base::MetricKind::kCounter:
      return "counter";
    case base::MetricKind::kGauge:
      return "gauge";
    case base::MetricKind::kHistogram:
      return "histogram";
  }
  return "";
}

absl::Status ShowMetrics(const Globals& globals, const MetricsOptions& options) {
  if (options.markdown) {
    fmt::print("{}", base::MetricsMarkdown());
    return absl::OkStatus();
  }
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> rows;
  for (const base::MetricInfo& info : base::MetricsTable()) {
    const std::string kind = KindWord(info.kind);
    rows.push_back({std::string(info.name), kind, std::string(info.help)});
    list.push_back({{"name", std::string(info.name)},
                    {"kind", kind},
                    {"help", std::string(info.help)},
                    {"processes", std::string(info.processes)}});
  }
  if (globals.json) {
    PrintJson({{"metrics", std::move(list)}});
  } else {
    fmt::print("{}", FormatTable({"METRIC", "KIND", "MEANING"}, rows));
  }
  return absl::OkStatus();
}

absl::Status Version(const Globals& globals, const NoOptions&) {
  if (globals.json) {
    PrintJson({{"version", LEXICO_VERSION}});
  } else {
    fmt::print("lexico {}\n", LEXICO_VERSION);
  }
  return absl::OkStatus();
}

}  // namespace

void AddInfoCommands(CLI::App& app, Command& command) {
  auto* models = app.add_subcommand("models", "Models that can be used, and their profiles");
  models->footer("Examples:\n  lexico models\n  lexico models --json | jq -r '.models[].name'");
  Bind(models, command, std::make_shared<NoOptions>(), &Models);
  auto options = std::make_shared<MetricsOptions>();
  auto* metrics = app.add_subcommand("metrics", "What the servers export to Prometheus");
  metrics->add_flag("--markdown", options->markdown, "As the page docs/metrics.md");
  metrics->footer(
      "Examples:\n  lexico metrics\n  lexico metrics --markdown > docs/metrics.md\n"
      "The values are at /metrics of each process: curl http://127.0.0.1:9090/metrics");
  Bind(metrics, command, options, &ShowMetrics);
  auto* version = app.add_subcommand("version", "The version of this program");
  version->footer("Examples:\n  lexico version --json");
  Bind(version, command, std::make_shared<NoOptions>(), &Version);
}

}  // namespace lexico::cli

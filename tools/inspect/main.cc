// lexico-inspect: what a file of a store, a coordinator or a model is, and whether it is sound.
// Exit codes: 0 all sound, 1 something damaged or unreadable, 2 wrong use.
#include <fmt/format.h>

#include <iostream>

#include "kernels/cpu/openmp.h"
#include "proto/base/options.h"
#include "tools/inspect/inspect.h"

namespace {

// Whether everything is sound.
bool InspectAll(const std::vector<std::string>& paths, const lexico::inspect::Options& options,
                bool json) {
  bool sound = true;
  nlohmann::ordered_json reports = nlohmann::ordered_json::array();
  const auto failed = [&](const absl::Status& status) {
    std::cerr << fmt::format("lexico-inspect: {}\n", status.ToString());
    sound = false;
  };
  for (const std::string& path : paths) {
    const auto files = lexico::inspect::FilesToInspect(path);
    if (!files.ok()) {
      failed(files.status());
      continue;
    }
    for (const std::string& file : *files) {
      const auto report = lexico::inspect::InspectFile(file, options);
      if (!report.ok()) {
        failed(report.status());
        continue;
      }
      sound = sound && report->is_sound();
      if (json) {
        reports.push_back(lexico::inspect::ReportJson(*report));
      } else {
        std::cout << lexico::inspect::ReportText(*report);
      }
    }
  }
  if (json) {
    std::cout << reports.dump(1, ' ', true, nlohmann::json::error_handler_t::replace) << "\n";
  }
  return sound;
}

}  // namespace

int main(int argc, char** argv) {
  lexico::kernels::cpu::EnsureShortSpin(argv);
  CLI::App app(
      "Says what a segment or page of a store, a coordinator's journal or a dictionary is, whether "
      "it is sound, and if not where. Files are only read; their owner may go on running.",
      "lexico-inspect");
  std::vector<std::string> paths;
  lexico::inspect::Options options;
  bool json = false;
  app.add_option("paths", paths, "Files, or folders such as a store's --data_dir")->required();
  app.add_flag("--pages", options.list_pages, "List every page of a segment");
  app.add_flag("--json", json, "Print a JSON array of reports");
  app.footer(
      "Exit codes: 0 all sound, 1 something damaged or unreadable, 2 wrong use.\n"
      "Example:\n  lexico-inspect /var/lib/lexico/store models/lexico-20m/dictionaries");
  if (const absl::Status parsed = lexico::base::ParseCommandLine(app, argc, argv); !parsed.ok()) {
    if (absl::IsCancelled(parsed)) {
      std::cout << std::string(parsed.message());
      return 0;
    }
    std::cerr << fmt::format("lexico-inspect: {}\n", std::string(parsed.message()));
    return 2;
  }
  return InspectAll(paths, options, json) ? 0 : 1;
}

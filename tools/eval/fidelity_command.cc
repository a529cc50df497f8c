// lexico-eval fidelity: what profiles and rivals cost in quality and take in memory.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iostream>
#include <iterator>
#include <set>

#include "proto/base/limits.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "tools/eval/commands.h"
#include "tools/eval/fidelity/fidelity.h"
#include "tools/eval/fidelity/fidelity_report.h"
#include "tools/eval/files/text_file.h"
#include "worker/model/config.h"

namespace lexico::eval {
namespace {

struct Options {
  std::string model_dir;
  std::string dictionary;
  std::vector<std::string> profiles = {"paper-s8", "paper-s16", "paper-s24"};
  std::vector<std::string> rivals = {"kivi-2", "rotate-2", "rotate-3"};
  std::string text_file;
  int64_t n_tokens = 4096;
  int64_t n_continuation = 256;
  int n_documents = 2;
  int threads = 0;
  bool json = false;
  std::string csv_file;
};

// Of a vector of a coded page, keys and values together.
int StoredBytes(const base::Profile& profile, int head_dim) {
  return static_cast<int>((profile.k.bytes(head_dim) + profile.v.bytes(head_dim)) / 2);
}

absl::StatusOr<FidelityOptions> ParseMethods(const Options& options) {
  LEXICO_ASSIGN_OR_RETURN(const worker::ModelConfig config,
                          worker::ReadModelConfig(options.model_dir));
  FidelityOptions parsed;
  parsed.n_tokens = options.n_tokens;
  parsed.n_continuation = options.n_continuation;
  parsed.n_documents = options.n_documents;
  std::set<int> budgets;
  for (const std::string& name : options.profiles) {
    LEXICO_ASSIGN_OR_RETURN(MeasuredProfile measured, ParseMeasuredProfile(name));
    const base::Profile& profile = measured.profile;
    if (!profile.is_dense()) budgets.insert(StoredBytes(profile, config.head_dim));
    parsed.profiles.push_back(std::move(measured));
  }
  if (budgets.empty()) {
    LEXICO_ASSIGN_OR_RETURN(const base::Profile usual, base::ParseProfile(base::kDefaultProfile));
    budgets.insert(StoredBytes(usual, config.head_dim));
  }
  const std::vector<int> ascending(budgets.begin(), budgets.end());
  for (const std::string& name : options.rivals) {
    LEXICO_ASSIGN_OR_RETURN(auto rivals, ParseRival(name, ascending));
    std::move(rivals.begin(), rivals.end(), std::back_inserter(parsed.rivals));
  }
  return parsed;
}

absl::Status Run(const Options& options) {
  LEXICO_ASSIGN_OR_RETURN(const FidelityOptions methods, ParseMethods(options));
  LEXICO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          ReadTextIds(options.model_dir, options.text_file));
  bool coded = false;
  for (const MeasuredProfile& measured : methods.profiles) {
    coded = coded || measured.profile.has_atoms();
  }
  std::string path = options.dictionary;
  if (coded && path.empty()) {
    LEXICO_ASSIGN_OR_RETURN(path, worker::FindDefaultDictionary(options.model_dir));
  }
  const kernels::Stream stream = kernels::Stream::Cpu(options.threads);
  LEXICO_ASSIGN_OR_RETURN(
      const auto ranks, worker::LoadModelRanks(options.model_dir, coded ? path : "", {&stream, 1}));
  LEXICO_ASSIGN_OR_RETURN(const FidelityReport report,
                          MeasureFidelity(methods, ranks[0], ids, [](const std::string& line) {
                            std::cerr << line << "\n";
                          }));
  const FidelitySetup setup{.model = options.model_dir,
                            .dictionary = coded ? path : "",
                            .text = options.text_file,
                            .n_tokens = options.n_tokens,
                            .n_continuation = options.n_continuation,
                            .n_documents = options.n_documents};
  std::cout << (options.json ? FidelityJson(setup, report) : FidelityTable(setup, report));
  if (options.csv_file.empty()) return absl::OkStatus();
  return WriteText(options.csv_file, FidelityCsv(report));
}

}  // namespace

void AddFidelityCommand(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "fidelity", "What profiles and rival methods cost in quality after a compressed context");
  command->add_option("--model", options->model_dir, "Model folder")->required();
  command->add_option("--text", options->text_file, "UTF-8 text the model was not trained on")
      ->required();
  command->add_option("--dictionary", options->dictionary,
                      "Dictionary file; default: the model folder's");
  command
      ->add_option(
          "--profiles", options->profiles,
          "Comma-separated profiles; as paper-s16:paper-s8, coded as the first and demoted to "
          "the second")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option("--rivals", options->rivals,
                   fmt::format("Comma-separated methods to compare with, of {}; evictions take the "
                               "bytes of each coded profile, or their own as in snapkv-48",
                               fmt::join(RivalNames(), ", ")))
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--tokens", options->n_tokens, "Tokens of a compressed context")
      ->check(CLI::Range(int64_t{1}, int64_t{base::kPositionsMax}))
      ->capture_default_str();
  command->add_option("--continuation", options->n_continuation, "Tokens compared behind it")
      ->check(CLI::Range(int64_t{1}, int64_t{base::kPositionsMax}))
      ->capture_default_str();
  command->add_option("--documents", options->n_documents, "Runs of the text, at even distances")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; 0 for all")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Machine-readable output, for plot_fidelity.py");
  command->add_option("--csv", options->csv_file, "Write a CSV file too");
  command->footer(
      "Example:\n  lexico-eval fidelity --model models/lexico-20m --text heldout.txt --profiles "
      "paper-s16 --rivals kivi-2,rotate-3,snapkv --json > fidelity.json\n"
      "  tools/eval/plot_fidelity.py fidelity.json --out fidelity.svg");
  command->callback([options, action] { *action = [options] { return Run(*options); }; });
}

}  // namespace lexico::eval

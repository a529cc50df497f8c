// lexico-eval sweep: one experiment over many settings, as a table.
#include <fmt/format.h>

#include <iostream>

#include "proto/base/status.h"
#include "tools/eval/code/coded_vectors.h"
#include "tools/eval/commands.h"
#include "tools/eval/files/text_file.h"
#include "tools/eval/sweep/coding_cost.h"
#include "tools/eval/sweep/recovery.h"
#include "tools/eval/sweep/universality.h"

namespace lexico::eval {
namespace {

struct Output {
  int threads = 0;
  bool json = false;
  std::string csv_file;

  kernels::Stream stream() const { return kernels::Stream::Cpu(threads); }
};

void AddOutput(CLI::App* command, Output* output) {
  command->add_option("--threads", output->threads, "CPU threads; 0 for all")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", output->json, "Print JSON, for tools/eval/plot_sweep.py");
  command->add_option("--csv", output->csv_file, "Write the table as CSV too");
}

void AddSparsities(CLI::App* command, std::vector<int64_t>* sparsities) {
  command->add_option("--sparsities", *sparsities, "Comma-separated numbers of atoms a vector")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

// ---- recovery

struct Recovery {
  RecoveryOptions sweep;
  int64_t n_atoms = 4096;
  int64_t head_dim = 128;
  std::string dictionary;
  std::string tensor = "layers.0.k";
  Output output;
};

absl::Status RunRecovery(const Recovery& options) {
  std::vector<float> random;
  FileMatrix file;
  if (options.dictionary.empty()) {
    random = RandomAtoms(options.n_atoms, options.head_dim, options.sweep.seed);
    file.view = {random.data(), {options.n_atoms, options.head_dim}};
  } else {
    LEXICO_ASSIGN_OR_RETURN(file, ReadMatrix(options.dictionary, options.tensor));
  }
  LEXICO_ASSIGN_OR_RETURN(ResultTable table,
                          SweepRecovery(options.sweep, file.view, options.output.stream()));
  table.SetFact("dictionary", options.dictionary.empty()
                                  ? "random unit atoms"
                                  : fmt::format("{} of {}", options.tensor, options.dictionary));
  return PrintTable(table, options.output.json, options.output.csv_file);
}

void AddRecovery(CLI::App* sweep, Action* action) {
  auto options = std::make_shared<Recovery>();
  CLI::App* command = sweep->add_subcommand(
      "recovery", "Does OMP find the atoms that synthetic sparse vectors were made of?");
  AddSparsities(command, &options->sweep.sparsities);
  command->add_option("--noises", options->sweep.noises, "Comma-separated relative noise")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  command->add_option("--vectors", options->sweep.n_vectors, "Of each row")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  command->add_option("--seed", options->sweep.seed, "The same seed gives the same vectors")
      ->capture_default_str();
  command->add_option("--n-atoms", options->n_atoms, "Of random atoms")
      ->check(CLI::Range(16, 8192))
      ->capture_default_str();
  command->add_option("--head-dim", options->head_dim, "Of random atoms")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--dictionary", options->dictionary, "Its atoms instead of random ones");
  command->add_option("--tensor", options->tensor, "Which of the file's")->capture_default_str();
  AddOutput(command, &options->output);
  command->callback([options, action] { *action = [options] { return RunRecovery(*options); }; });
}

// ---- coding-cost

struct CodingCost {
  CodingCostOptions sweep;
  Output output;
};

absl::Status RunCodingCost(const CodingCost& options) {
  LEXICO_ASSIGN_OR_RETURN(const ResultTable table,
                          SweepCodingCost(options.sweep, options.output.stream()));
  return PrintTable(table, options.output.json, options.output.csv_file);
}

void AddCodingCost(CLI::App* sweep, Action* action) {
  auto options = std::make_shared<CodingCost>();
  CodingCostOptions& cost = options->sweep;
  CLI::App* command = sweep->add_subcommand(
      "coding-cost", "Time of coding and of attention by dictionary size and sparsity");
  command->add_option("--n-atoms", cost.n_atoms, "Comma-separated sizes of the dictionary")
      ->delimiter(',')
      ->capture_default_str();
  AddSparsities(command, &cost.sparsities);
  command->add_option("--head-dim", cost.head_dim, "Numbers of a vector")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--heads", cost.n_heads, "Query heads")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--kv-heads", cost.n_kv_heads, "KV heads")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--tokens", cost.n_tokens, "That a decode step attends to, whole pages")
      ->check(CLI::Range(1, 1 << 22))
      ->capture_default_str();
  command->add_option("--vectors", cost.n_vectors, "Coded in one call")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  command->add_option("--seconds", cost.seconds, "Of measuring a figure")
      ->check(CLI::Range(0.01, 60.0))
      ->capture_default_str();
  AddOutput(command, &options->output);
  command->callback([options, action] { *action = [options] { return RunCodingCost(*options); }; });
}

// ---- universality

struct Universality {
  UniversalityOptions sweep;
  std::string model_dir;
  std::vector<std::string> dictionaries;
  std::vector<std::string> texts;
  Output output;
};

// "name=file", or a file that is its own name.
std::pair<std::string, std::string> NameAndFile(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return {text, text};
  return {text.substr(0, equals), text.substr(equals + 1)};
}

absl::Status RunUniversality(const Universality& options) {
  const kernels::Stream stream = options.output.stream();
  LEXICO_ASSIGN_OR_RETURN(const auto model, worker::Transformer::Load(options.model_dir, stream));
  std::vector<std::string> files = options.dictionaries;
  if (files.empty()) {
    LEXICO_ASSIGN_OR_RETURN(const std::string path,
                            worker::FindDefaultDictionary(options.model_dir));
    files.push_back(path);
  }
  std::vector<NamedDictionary> dictionaries;
  for (const std::string& file : files) {
    const auto [name, path] = NameAndFile(file);
    LEXICO_ASSIGN_OR_RETURN(
        auto dictionary,
        worker::ModelDictionary::Load(path, model->config(), model->fingerprint(), stream));
    dictionaries.push_back({name, std::move(dictionary)});
  }
  std::vector<NamedText> texts;
  for (const std::string& file : options.texts) {
    const auto [name, path] = NameAndFile(file);
    LEXICO_ASSIGN_OR_RETURN(std::vector<int32_t> ids, ReadTextIds(options.model_dir, path));
    texts.push_back({name, std::move(ids)});
  }
  LEXICO_ASSIGN_OR_RETURN(ResultTable table,
                          SweepUniversality(options.sweep, *model, dictionaries, texts, stream));
  table.SetFact("model", options.model_dir);
  return PrintTable(table, options.output.json, options.output.csv_file);
}

void AddUniversality(CLI::App* sweep, Action* action) {
  auto options = std::make_shared<Universality>();
  CLI::App* command = sweep->add_subcommand(
      "universality", "Errors of every dictionary on every text: domains it was not trained on");
  command->add_option("--model", options->model_dir, "Model folder")->required();
  command
      ->add_option("--dictionaries", options->dictionaries,
                   "Comma-separated files, or name=file; default: the model folder's")
      ->delimiter(',');
  command->add_option("--texts", options->texts, "Comma-separated UTF-8 files, or name=file")
      ->delimiter(',')
      ->required();
  AddSparsities(command, &options->sweep.sparsities);
  AddTextVectorsOptions(command, &options->sweep.vectors);
  AddOutput(command, &options->output);
  command->callback(
      [options, action] { *action = [options] { return RunUniversality(*options); }; });
}

}  // namespace

void AddTextVectorsOptions(CLI::App* command, TextVectorsOptions* options) {
  command->add_option("--tokens", options->n_tokens, "Of a run of the text, from position 0")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 22))
      ->capture_default_str();
  command->add_option("--documents", options->n_documents, "Runs, at even distances")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command->add_option("--vectors", options->n_vectors, "Kept of each layer's keys, and values")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
}

void AddSweepCommand(CLI::App& app, Action* action) {
  CLI::App* sweep = app.add_subcommand("sweep", "One experiment over many settings, as a table");
  sweep->require_subcommand(1);
  AddCodingCost(sweep, action);
  AddRecovery(sweep, action);
  AddUniversality(sweep, action);
  sweep->footer(
      "Sparsity and dictionary against quality: lexico-eval fidelity --profiles "
      "paper-s4,paper-s8,... "
      "--dictionary FILE.\n"
      "Example:\n  lexico-eval sweep universality --model models/lexico-20m --texts "
      "prose=book.txt,code=source.txt");
}

}  // namespace lexico::eval

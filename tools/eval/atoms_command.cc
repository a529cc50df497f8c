// lexico-eval atoms: what the atoms of a dictionary are like.
#include <fmt/format.h>

#include <iostream>

#include "proto/base/status.h"
#include "tools/eval/commands.h"
#include "tools/eval/files/text_file.h"
#include "tools/eval/sweep/atoms.h"
#include "tools/eval/sweep/text_vectors.h"

namespace lexico::eval {
namespace {

struct Options {
  std::string dictionary;
  std::string model_dir;
  std::string text_file;
  int64_t sparsity = 8;
  TextVectorsOptions vectors;
  int threads = 0;
  bool json = false;
  std::string csv_file;
  std::string atoms_file;
};

absl::Status Count(const Options& options, const kernels::Stream& stream,
                   std::vector<AtomsOfOne>* dictionaries) {
  LEXICO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          ReadTextIds(options.model_dir, options.text_file));
  LEXICO_ASSIGN_OR_RETURN(const auto model, worker::Transformer::Load(options.model_dir, stream));
  if (dictionaries->size() != 2 * static_cast<size_t>(model->config().n_layers) ||
      dictionaries->front().head_dim != model->config().head_dim) {
    return absl::InvalidArgumentError(
        fmt::format("{} has {} dictionaries of {} numbers, {} needs {} of {}", options.dictionary,
                    dictionaries->size(), dictionaries->front().head_dim, options.model_dir,
                    2 * model->config().n_layers, model->config().head_dim));
  }
  LEXICO_ASSIGN_OR_RETURN(const auto vectors, TextVectors(options.vectors, *model, ids, stream));
  for (size_t i = 0; i < vectors.size(); ++i) {
    LEXICO_RETURN_IF_ERROR(CountUses(vectors[i], options.sparsity, stream, &(*dictionaries)[i]));
  }
  return absl::OkStatus();
}

absl::Status Run(const Options& options) {
  if (options.model_dir.empty() != options.text_file.empty()) {
    return absl::InvalidArgumentError(
        "--model and --text go together: uses are counted with both, or not at all");
  }
  const kernels::Stream stream = kernels::Stream::Cpu(options.threads);
  LEXICO_ASSIGN_OR_RETURN(std::vector<AtomsOfOne> dictionaries,
                          ReadAtoms(options.dictionary, stream));
  if (!options.model_dir.empty()) {
    LEXICO_RETURN_IF_ERROR(Count(options, stream, &dictionaries));
  }
  ResultTable table = AtomsTable(dictionaries);
  table.SetFact("dictionary", options.dictionary);
  if (!options.text_file.empty()) {
    table.SetFact("text", options.text_file);
    table.SetFact("sparsity", options.sparsity);
  }
  if (!options.atoms_file.empty()) {
    LEXICO_RETURN_IF_ERROR(
        WriteText(options.atoms_file, AtomsJson(options.dictionary, dictionaries)));
  }
  return PrintTable(table, options.json, options.csv_file);
}

}  // namespace

void AddAtomsCommand(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "atoms", "How alike the atoms of a dictionary are, and how often codes take them");
  command->add_option("--dictionary", options->dictionary, "Dictionary file")->required();
  command->add_option("--model", options->model_dir, "Model folder, to count uses");
  command->add_option("--text", options->text_file, "UTF-8 text whose codes are counted");
  command->add_option("--sparsity", options->sparsity, "Atoms a vector")->capture_default_str();
  AddTextVectorsOptions(command, &options->vectors);
  command->add_option("--threads", options->threads, "CPU threads; 0 for all")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON");
  command->add_option("--csv", options->csv_file, "Write the table as CSV too");
  command->add_option("--atoms", options->atoms_file,
                      "Write coherence and uses of every atom as JSON, for "
                      "tools/eval/plot_atoms.py");
  command->footer(
      "Example:\n  lexico-eval atoms --dictionary models/lexico-20m/dictionaries/"
      "dictionary-N4096.safetensors --model models/lexico-20m --text book.txt --atoms atoms.json");
  command->callback([options, action] { *action = [options] { return Run(*options); }; });
}

}  // namespace lexico::eval

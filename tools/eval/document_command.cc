// lexico-eval document: writes a document with hidden facts, and its questions.
#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "proto/base/status.h"
#include "tools/eval/commands.h"
#include "tools/eval/document.h"
#include "tools/eval/files/text_file.h"
#include "worker/tokenizer/tokenizer.h"

namespace lexico::eval {
namespace {

struct Options {
  std::string model;
  int64_t n_tokens = 20500;
  DocumentOptions document;
  std::string out;
  std::string questions;
};

absl::Status Run(Options options) {
  LEXICO_ASSIGN_OR_RETURN(const auto tokenizer,
                          worker::Tokenizer::Load(options.model + "/tokenizer.json"));
  LEXICO_ASSIGN_OR_RETURN(const Document document,
                          MakeDocumentOfTokens(options.document, *tokenizer, options.n_tokens));
  nlohmann::json questions = nlohmann::json::array();
  for (const Fact& fact : document.facts) {
    questions.push_back(
        {{"question", fact.question}, {"answer", fact.answer}, {"depth", fact.depth}});
  }
  LEXICO_RETURN_IF_ERROR(WriteText(options.out, document.text));
  if (!options.questions.empty()) {
    LEXICO_RETURN_IF_ERROR(WriteText(options.questions, questions.dump(1) + "\n"));
  }
  std::cout << fmt::format("{}: {} bytes, {} facts\n", options.out, document.text.size(),
                           document.facts.size());
  return absl::OkStatus();
}

}  // namespace

void AddDocumentCommand(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "document", "Write a document of a given length with facts hidden in it, and the questions");
  command->add_option("--model", options->model, "Model folder, for its tokenizer")->required();
  command->add_option("--tokens", options->n_tokens, "Length of the document in tokens")
      ->check(CLI::Range(int64_t{200}, int64_t{1} << 24));
  command->add_option("--facts", options->document.n_facts, "Facts to hide")
      ->check(CLI::Range(1, 200));
  command->add_option("--seed", options->document.seed, "The same seed gives the same document");
  command->add_option("--text", options->document.text_file,
                      "Take the prose from this file instead of generating it");
  command->add_option("--out", options->out, "Text file to write")->required();
  command->add_option("--questions", options->questions,
                      "JSON file to write: a list of {question, answer, depth}");
  command->footer(
      "Example:\n  lexico-eval document --model models/lexico-20m --tokens 20000 --out "
      "document.txt "
      "--questions questions.json");
  command->callback([options, action] { *action = [options] { return Run(*options); }; });
}

}  // namespace lexico::eval

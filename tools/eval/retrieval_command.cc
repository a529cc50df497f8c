// lexico-eval retrieval: how many questions about facts hidden in documents are answered exactly,
// by profile and length.
#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "proto/base/options.h"
#include "proto/base/status.h"
#include "tools/eval/commands.h"
#include "tools/eval/document.h"
#include "tools/eval/local_model.h"

namespace lexico::eval {
namespace {

struct Options {
  LocalModelOptions model;
  std::vector<std::string> profiles = {"dense", "paper-s16"};
  std::vector<int64_t> lengths = {4096, 16384};
  int n_documents = 8;
  int n_questions = 6;
  uint64_t seed = 100;
  std::string text_file;
  bool json = false;
};

struct Row {
  std::string profile;
  int64_t length = 0;
  int right = 0;
  int asked = 0;
  double fraction_of_fp16 = 0;  // of the last document
  double relative_error_k = 0;
  double relative_error_v = 0;
};

// Asks every question in a fork, so that each sees the document alone.
absl::Status AskAll(LocalModel& model, const Document& document, const std::string& session,
                    int n_questions, bool show, Row* row) {
  for (int i = 0; i < n_questions; ++i) {
    const Fact& fact = document.facts[i];
    LEXICO_ASSIGN_OR_RETURN(std::vector<int32_t> prompt, model.QuestionIds(fact.question));
    LEXICO_RETURN_IF_ERROR(model.engine().Fork(session, "question"));
    LEXICO_ASSIGN_OR_RETURN(const auto answer, model.Ask("question", std::move(prompt), 24));
    LEXICO_RETURN_IF_ERROR(model.engine().Drop("question"));
    const bool right = IsRightAnswer(answer.text, fact.answer);
    row->right += right;
    ++row->asked;
    if (show && !right) {
      std::cerr << fmt::format("  {} {}: \"{}\" -> \"{}\", expected \"{}\" (depth {:.0f} %)\n",
                               row->profile, row->length, fact.question, answer.text, fact.answer,
                               100 * fact.depth);
    }
  }
  return absl::OkStatus();
}

absl::Status RunDocument(LocalModel& model, const Options& options, const Document& document,
                         Row* row) {
  LEXICO_RETURN_IF_ERROR(
      model.engine().OpenSession({.session_id = "document", .profile = row->profile}));
  LEXICO_ASSIGN_OR_RETURN(std::vector<int32_t> ids, model.DocumentIds(document.text));
  LEXICO_ASSIGN_OR_RETURN(const auto appended, model.Append("document", std::move(ids)));
  const worker::KvMemory& memory = appended.session.memory;
  row->fraction_of_fp16 =
      static_cast<double>(memory.code_bytes + memory.window_bytes + memory.bookkeeping_bytes) /
      static_cast<double>(memory.fp16_equivalent_bytes);
  row->relative_error_k = appended.session.mean_error.k;
  row->relative_error_v = appended.session.mean_error.v;
  LEXICO_RETURN_IF_ERROR(
      AskAll(model, document, "document", options.n_questions, !options.json, row));
  return model.engine().Drop("document");
}

void Print(const std::vector<Row>& rows, bool json) {
  if (json) {
    nlohmann::json out = nlohmann::json::array();
    for (const Row& row : rows) {
      out.push_back({{"profile", row.profile},
                     {"n_tokens", row.length},
                     {"right", row.right},
                     {"asked", row.asked},
                     {"fraction_of_fp16", row.fraction_of_fp16},
                     {"relative_error_k", row.relative_error_k},
                     {"relative_error_v", row.relative_error_v}});
    }
    std::cout << out.dump(1) << "\n";
    return;
  }
  std::cout << fmt::format("{:<12} {:>8} {:>9} {:>7} {:>9} {:>8} {:>8}\n", "profile", "tokens",
                           "right", "%", "of FP16", "error K", "error V");
  for (const Row& row : rows) {
    std::cout << fmt::format("{:<12} {:>8} {:>9} {:>7.1f} {:>8.2f}% {:>8.4f} {:>8.4f}\n",
                             row.profile, row.length, fmt::format("{}/{}", row.right, row.asked),
                             100.0 * row.right / row.asked, 100 * row.fraction_of_fp16,
                             row.relative_error_k, row.relative_error_v);
  }
}

absl::Status Run(const Options& options) {
  LEXICO_ASSIGN_OR_RETURN(const auto model, LocalModel::Load(options.model));
  std::vector<Row> rows;
  for (const int64_t length : options.lengths) {
    const size_t first = rows.size();
    for (const std::string& profile : options.profiles) {
      rows.push_back({.profile = profile, .length = length});
    }
    for (int d = 0; d < options.n_documents; ++d) {
      // Room for the turn around the document, a question and its answer within `length`.
      LEXICO_ASSIGN_OR_RETURN(
          const Document document,
          MakeDocumentOfTokens({.n_facts = std::max(8, options.n_questions),
                                .seed = options.seed + static_cast<uint64_t>(length) * 1000 + d,
                                .text_file = options.text_file},
                               model->tokenizer(), length - 96));
      for (size_t p = 0; p < options.profiles.size(); ++p) {
        LEXICO_RETURN_IF_ERROR(RunDocument(*model, options, document, &rows[first + p]));
      }
      std::cerr << fmt::format("{} tokens: document {} of {}\n", length, d + 1,
                               options.n_documents);
    }
  }
  Print(rows, options.json);
  return absl::OkStatus();
}

}  // namespace

void AddRetrievalCommand(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "retrieval", "Exact answers to questions about facts hidden in documents, by profile");
  command->add_option("--model", options->model.model_dir, "Model folder")->required();
  command->add_option("--dictionary", options->model.dictionary,
                      "Dictionary file; default: the model folder's");
  command->add_option("--profiles", options->profiles, "Comma-separated profiles")->delimiter(',');
  command->add_option("--lengths", options->lengths, "Comma-separated lengths in tokens")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 20));
  command->add_option("--documents", options->n_documents, "Documents of each length")
      ->check(CLI::Range(1, 1000));
  command->add_option("--questions", options->n_questions, "Questions to each document")
      ->check(CLI::Range(1, 200));
  command->add_option("--seed", options->seed, "Seed of documents and facts");
  command->add_option("--text", options->text_file,
                      "Take the prose from this file instead of generating it");
  command->add_option("--device", options->model.device, "cpu, cuda, cuda:1, ...")
      ->capture_default_str();
  command->add_option("--threads", options->model.threads, "Threads; 0: all");
  command->add_flag("--json", options->json, "Machine-readable output");
  command->footer(
      "Example:\n  lexico-eval retrieval --model models/lexico-20m --profiles dense,paper-s16 "
      "--lengths 4096,16384");
  command->callback([options, action] { *action = [options] { return Run(*options); }; });
}

}  // namespace lexico::eval

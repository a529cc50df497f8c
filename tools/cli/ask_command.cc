// lexico ask: one question, the answer as it is written.
#include <fmt/format.h>
#include <unistd.h>

#include "proto/base/status.h"
#include "tools/cli/command.h"
#include "tools/cli/generate.h"
#include "tools/cli/json.h"
#include "tools/cli/text_input.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

struct AskOptions {
  v1::GenerateRequest request;
  std::string question;
};

std::string FormatLogprobs(const Answer& answer) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& token : answer.tokens) {
    std::string others;
    for (const v1::Logprob& other : token.top_logprobs()) {
      others += fmt::format("{}{}:{:.3f}", others.empty() ? "" : " ", other.id(), other.logprob());
    }
    rows.push_back({std::to_string(token.index()), std::to_string(token.id()),
                    fmt::format("{:.4f}", token.logprob()), others});
  }
  return FormatTable({"INDEX", "ID", "LOGPROB", "LIKELIEST (ID:LOGPROB)"}, rows);
}

absl::Status Ask(const Globals& globals, const AskOptions& options) {
  v1::GenerateRequest request = options.request;
  LEXICO_ASSIGN_OR_RETURN(*request.mutable_prompt(), TextArgument(options.question));
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  const auto show = [&](std::string_view text) {
    if (globals.json || text.empty()) return;
    fmt::print("{}", text);
    std::fflush(stdout);
  };
  const absl::StatusOr<Answer> answer = Generate(client, request, show);
  if (!answer.ok()) return answer.status();
  if (globals.json) {
    PrintJson(AnswerToJson(*answer));
    return absl::OkStatus();
  }
  fmt::print("\n");
  if (request.sampling().n_logprobs() > 0) fmt::print("{}", FormatLogprobs(*answer));
  if (isatty(STDERR_FILENO)) {
    fmt::print(stderr, "\033[2m{}\033[0m\n",
               FormatUsage(answer->finished.usage(), answer->finished.timing()));
  }
  return absl::OkStatus();
}

}  // namespace

void AddAskCommand(CLI::App& app, Command& command) {
  auto options = std::make_shared<AskOptions>();
  auto* ask = app.add_subcommand("ask", "Ask a session a question and stream the answer");
  ask->add_option_function<std::string>(
         "id", [options](const std::string& id) { options->request.set_session_id(id); },
         "The session")
      ->required();
  ask->add_option("question", options->question, "The question; - reads it from standard input")
      ->required();
  AddGenerateFlags(*ask, options->request);
  ask->footer(
      R"(Question and answer stay in the session. To ask without leaving a trace, fork it first.
Examples:
  lexico ask notes "Who keeps the spare keys?"
  lexico ask notes "Tell it as a story." --temperature 0.8 --top-p 0.95 --seed 7
  lexico ask notes - < question.txt
  lexico ask notes "Yes or no?" --max-new-tokens 1 --logprobs 5 --json)");
  Bind(ask, command, options, &Ask);
}

}  // namespace lexico::cli

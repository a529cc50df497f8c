// lexico tokenize|detokenize: with a tokenizer.json on this machine, or with a model of the server.
#include <fmt/format.h>

#include <charconv>

#include "proto/base/status.h"
#include "tools/cli/client.h"
#include "tools/cli/command.h"
#include "tools/cli/json.h"
#include "tools/cli/text_input.h"
#include "worker/tokenizer/tokenizer.h"

namespace lexico::cli {
namespace {

struct TokenOptions {
  std::string tokenizer;
  std::string model;
  std::string text = "-";
  std::vector<std::string> ids;
  bool special = false;
};

absl::StatusOr<std::vector<int32_t>> Encode(const Globals& globals, const TokenOptions& options,
                                            const std::string& text) {
  if (!options.tokenizer.empty()) {
    LEXICO_ASSIGN_OR_RETURN(const auto tokenizer, worker::Tokenizer::Load(options.tokenizer));
    return tokenizer->Encode(text, worker::EncodeOptions{.add_special_tokens = options.special});
  }
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  v1::TokenizeRequest request;
  request.set_model(options.model);
  request.set_text(text);
  request.set_add_special_tokens(options.special);
  LEXICO_ASSIGN_OR_RETURN(const v1::TokenizeResponse response,
                          client.Call(&v1::Inference::Stub::Tokenize, request));
  return std::vector<int32_t>(response.ids().begin(), response.ids().end());
}

absl::Status Tokenize(const Globals& globals, const TokenOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const std::string text, TextArgument(options.text));
  LEXICO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(globals, options, text));
  if (globals.json) {
    PrintJson({{"ids", ids}});
  } else {
    fmt::print("{}\n", fmt::join(ids, " "));
  }
  return absl::OkStatus();
}

// "1 2 3", "1,2,3" and mixtures.
absl::StatusOr<std::vector<int32_t>> ParseIds(const std::vector<std::string>& arguments) {
  std::vector<int32_t> ids;
  for (const std::string& argument : arguments) {
    const char* at = argument.data();
    const char* const end = at + argument.size();
    while (at < end) {
      if (*at == ',' || *at == ' ' || *at == '\n') {
        ++at;
        continue;
      }
      int32_t id = 0;
      const auto [next, error] = std::from_chars(at, end, id);
      if (error != std::errc() || id < 0) {
        return absl::InvalidArgumentError(
            fmt::format("'{}' is not a list of token ids; write 17 42 or 17,42", argument));
      }
      ids.push_back(id);
      at = next;
    }
  }
  return ids;
}

absl::Status Detokenize(const Globals& globals, const TokenOptions& options) {
  std::vector<std::string> arguments = options.ids;
  if (arguments.empty() || arguments == std::vector<std::string>{"-"}) {
    LEXICO_ASSIGN_OR_RETURN(const std::string input, TextArgument("-"));
    arguments = {input};
  }
  LEXICO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(arguments));
  std::string text;
  if (!options.tokenizer.empty()) {
    LEXICO_ASSIGN_OR_RETURN(const auto tokenizer, worker::Tokenizer::Load(options.tokenizer));
    LEXICO_RETURN_IF_ERROR(tokenizer->CheckIds(ids));
    text = tokenizer->Decode(ids, /*skip_special=*/!options.special);
  } else {
    LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
    v1::DetokenizeRequest request;
    request.set_model(options.model);
    request.mutable_ids()->Assign(ids.begin(), ids.end());
    request.set_skip_special_tokens(!options.special);
    LEXICO_ASSIGN_OR_RETURN(const v1::DetokenizeResponse response,
                            client.Call(&v1::Inference::Stub::Detokenize, request));
    text = response.text();
  }
  if (globals.json) {
    PrintJson({{"text", text}});
  } else {
    fmt::print("{}\n", text);
  }
  return absl::OkStatus();
}

CLI::App* AddOne(CLI::App& app, Command& command, const std::string& name, const std::string& help,
                 const std::shared_ptr<TokenOptions>& options, const std::string& special_help,
                 absl::Status (*run)(const Globals&, const TokenOptions&)) {
  auto* sub = app.add_subcommand(name, help);
  auto* file = sub->add_option("--tokenizer", options->tokenizer,
                               "A tokenizer.json; without it the server's tokenizer is used")
                   ->type_name(kPathType);
  sub->add_option("--model", options->model, "Model of the server; may be absent when there is one")
      ->excludes(file);
  sub->add_flag("--special", options->special, special_help);
  Bind(sub, command, options, run);
  return sub;
}

}  // namespace

void AddTokenCommands(CLI::App& app, Command& command) {
  auto to_ids = std::make_shared<TokenOptions>();
  auto* tokenize = AddOne(app, command, "tokenize", "Text to token ids", to_ids,
                          "Add the tokens that begin a text", &Tokenize);
  tokenize->add_option("text", to_ids->text, "The text; - or nothing: standard input");
  tokenize->footer(R"(Examples:
  lexico tokenize --tokenizer models/lexico-20m/tokenizer.json "Hello there"
  lexico tokenize < handbook.txt | wc -w)");
  auto to_text = std::make_shared<TokenOptions>();
  auto* detokenize = AddOne(app, command, "detokenize", "Token ids to text", to_text,
                            "Show special tokens", &Detokenize);
  detokenize->add_option("ids", to_text->ids, "Ids, apart or with commas; nothing: standard input");
  detokenize->footer(R"(Examples:
  lexico detokenize --tokenizer models/lexico-20m/tokenizer.json 17 42 99
  lexico tokenize "Hello there" | lexico detokenize)");
}

}  // namespace lexico::cli

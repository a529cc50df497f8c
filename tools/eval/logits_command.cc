// lexico-eval logits: the next-token logits after a list of token ids, with exact attention.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/api/matmul.h"
#include "proto/base/status.h"
#include "tools/eval/commands.h"
#include "worker/model/exact_decoder.h"

namespace lexico::eval {
namespace {

struct Options {
  std::string model;
  std::vector<int32_t> ids;
  int top = 10;
  int threads = 0;
  bool json = false;
};

// The ids of the `n` largest logits, largest first, the smaller id first of equals.
std::vector<int32_t> TopIds(const std::vector<float>& logits, int n) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + n, ids.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  ids.resize(n);
  return ids;
}

absl::Status Run(const Options& options) {
  const kernels::Stream stream = kernels::Stream::Cpu(options.threads);
  LEXICO_ASSIGN_OR_RETURN(const auto model, worker::Transformer::Load(options.model, stream));
  const worker::ModelConfig& config = model->config();
  if (options.top > config.vocab_size) {
    return absl::InvalidArgumentError(fmt::format("--top is {}, the vocabulary of {} has {}",
                                                  options.top, options.model, config.vocab_size));
  }
  worker::ExactDecoder decoder(*model, stream);
  auto logits = decoder.Append(options.ids);
  if (!logits.ok()) return base::Annotate(logits.status(), "--ids");
  const std::vector<int32_t> top = TopIds(*logits, options.top);

  if (options.json) {
    nlohmann::json rows = nlohmann::json::array();
    for (const int32_t id : top) rows.push_back({{"id", id}, {"logit", (*logits)[id]}});
    const nlohmann::json out = {{"model", options.model},
                                {"architecture", config.architecture},
                                {"fingerprint", model->fingerprint().ToHex()},
                                {"matmul", kernels::MatMulUnit(stream)},
                                {"n_ids", options.ids.size()},
                                {"top", rows}};
    std::cout << out.dump(1, ' ', true, nlohmann::json::error_handler_t::replace) << "\n";
    return absl::OkStatus();
  }
  std::cout << fmt::format("{} ({}, model {}), {} ids, {}\n", options.model, config.architecture,
                           model->fingerprint().ShortHex(), options.ids.size(),
                           kernels::MatMulUnit(stream));
  for (const int32_t id : top) std::cout << fmt::format("{:>8}  {:.6f}\n", id, (*logits)[id]);
  return absl::OkStatus();
}

}  // namespace

void AddLogitsCommand(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("logits", "Print the largest next-token logits after a list of token ids");
  command->add_option("--model", options->model, "Model folder (config.json and safetensors)")
      ->required();
  command->add_option("--ids", options->ids, "Token ids, separated by commas")
      ->delimiter(',')
      ->required();
  command->add_option("--top", options->top, "How many logits to print")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; 0 for all")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(
      "Attention is exact, over a dense F32 cache; compare with the logits of transformers.\n"
      "Example:\n  lexico-eval logits --model models/lexico-20m --ids 0,2,101 --top 5");
  command->callback([options, action] { *action = [options] { return Run(*options); }; });
}

}  // namespace lexico::eval

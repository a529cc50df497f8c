// lexico-bench-engine: how fast one engine prefills and decodes, where the time goes, and what the
// cache takes. Random tokens: speed does not depend on what the text says.
//
// For each profile and each number of tokens: one Append of that many tokens to an empty session,
// then one greedy Generate of --new tokens. Timings are the engine's own (CallTiming).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/synchronization/notification.h"
#include "kernels/api/matmul.h"
#include "kernels/cpu/openmp.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "worker/engine/engine.h"

namespace lexico::eval {
namespace {

using worker::CallResult;

struct Options {
  std::string model_dir = "models/lexico-20m";
  std::string dictionary;
  std::vector<int> tokens = {1024, 4096, 16384};
  std::vector<std::string> profiles = {"dense", "paper-s16"};
  int n_new = 64;
  std::string device = "cpu";
  int threads = 0;
  std::string kv_memory = "2GiB";
  bool json = false;
};

struct Row {
  std::string profile;
  int n_tokens = 0;
  CallResult append;
  CallResult generate;
};

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

double PrefillRate(const Row& row) {
  return row.n_tokens / Seconds(row.append.timing.prefill + row.append.timing.coding);
}
double DecodeRate(const Row& row) {
  return static_cast<double>(row.generate.usage.n_generated_tokens - 1) /
         Seconds(row.generate.timing.decode);
}
double FractionOfFp16(const CallResult& result) {
  const worker::KvMemory& memory = result.session.memory;
  return static_cast<double>(memory.held_bytes()) /
         static_cast<double>(memory.fp16_equivalent_bytes);
}

// Blocks until the call has ended.
template <typename Start>
absl::StatusOr<CallResult> Run(const Start& start) {
  absl::StatusOr<CallResult> result = absl::UnknownError("not finished");
  absl::Notification finished;
  worker::CallCallbacks callbacks;
  callbacks.on_finished = [&](absl::StatusOr<CallResult> ended) {
    result = std::move(ended);
    finished.Notify();
  };
  LEXICO_RETURN_IF_ERROR(start(std::move(callbacks)).status());
  finished.WaitForNotification();
  return result;
}

absl::StatusOr<Row> Measure(worker::Engine& engine, const std::string& profile, int n_tokens,
                            int n_new) {
  LEXICO_RETURN_IF_ERROR(engine.OpenSession({.session_id = "bench", .profile = profile}));
  std::mt19937_64 random(static_cast<uint64_t>(n_tokens));
  std::vector<int32_t> ids(n_tokens);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random() % engine.transformer().config().vocab_size);
  }
  Row row{.profile = profile, .n_tokens = n_tokens};
  LEXICO_ASSIGN_OR_RETURN(row.append, Run([&](worker::CallCallbacks callbacks) {
                            return engine.Append({.session_id = "bench", .ids = ids},
                                                 std::move(callbacks));
                          }));
  LEXICO_ASSIGN_OR_RETURN(row.generate, Run([&](worker::CallCallbacks callbacks) {
                            worker::GenerateRequest request;
                            request.session_id = "bench";
                            request.prompt_ids = {ids[0]};
                            request.max_new_tokens = n_new;
                            request.ignore_end_tokens = true;
                            return engine.Generate(std::move(request), std::move(callbacks));
                          }));
  LEXICO_RETURN_IF_ERROR(engine.Drop("bench"));
  return row;
}

void PrintTable(const std::vector<Row>& rows, const char* matrix_unit) {
  std::cout << fmt::format("matrix products: {}\n", matrix_unit);
  std::cout << fmt::format(
      "{:<10} {:>7} | {:>9} {:>8} {:>8} {:>8} {:>8} | {:>9} {:>8} {:>9} | {:>10} {:>6}\n",
      "profile", "tokens", "prefill/s", "total s", "matrix s", "attn s", "coding s", "decode/s",
      "ms/tok", "attn ms", "KV", "of FP16");
  for (const Row& row : rows) {
    const auto& prefill = row.append.timing;
    const auto& decode = row.generate.timing;
    const auto n_steps = static_cast<double>(row.generate.usage.n_generated_tokens - 1);
    std::cout << fmt::format(
        "{:<10} {:>7} | {:>9.1f} {:>8.2f} {:>8.2f} {:>8.2f} {:>8.2f} | {:>9.2f} {:>8.2f} {:>9.2f} "
        "| "
        "{:>10} {:>6.1f}%\n",
        row.profile, row.n_tokens, PrefillRate(row), Seconds(prefill.prefill + prefill.coding),
        Seconds(prefill.prefill - prefill.prefill_attention), Seconds(prefill.prefill_attention),
        Seconds(prefill.coding), DecodeRate(row), 1e3 / DecodeRate(row),
        1e3 * Seconds(decode.decode_attention) / n_steps,
        base::HumanBytes(static_cast<double>(row.generate.session.memory.held_bytes())),
        100 * FractionOfFp16(row.generate));
  }
}

void PrintJson(const std::vector<Row>& rows, const char* matrix_unit) {
  nlohmann::json out = {{"matrix_unit", matrix_unit}, {"rows", nlohmann::json::array()}};
  for (const Row& row : rows) {
    const auto& prefill = row.append.timing;
    const worker::KvMemory& memory = row.generate.session.memory;
    out["rows"].push_back(
        {{"profile", row.profile},
         {"n_tokens", row.n_tokens},
         {"prefill_tokens_per_second", PrefillRate(row)},
         {"prefill_matrix_seconds", Seconds(prefill.prefill - prefill.prefill_attention)},
         {"prefill_attention_seconds", Seconds(prefill.prefill_attention)},
         {"prefill_coding_seconds", Seconds(prefill.coding)},
         {"decode_tokens_per_second", DecodeRate(row)},
         {"decode_attention_seconds", Seconds(row.generate.timing.decode_attention)},
         {"decode_coding_seconds", Seconds(row.generate.timing.coding)},
         {"first_token_seconds", Seconds(row.generate.timing.first_token)},
         {"code_bytes", memory.code_bytes},
         {"window_bytes", memory.window_bytes},
         {"bookkeeping_bytes", memory.bookkeeping_bytes},
         {"fp16_equivalent_bytes", memory.fp16_equivalent_bytes},
         {"fraction_of_fp16", FractionOfFp16(row.generate)},
         {"relative_error_k", row.append.session.mean_error.k},
         {"relative_error_v", row.append.session.mean_error.v}});
  }
  std::cout << out.dump(2) << "\n";
}

absl::Status Bench(const Options& options) {
  size_t kv_memory = 0;
  LEXICO_RETURN_IF_ERROR(base::ParseByteSize(options.kv_memory, &kv_memory));
  LEXICO_ASSIGN_OR_RETURN(const kernels::Stream stream,
                          kernels::Stream::Open(options.device, options.threads));
  LEXICO_ASSIGN_OR_RETURN(std::shared_ptr<const worker::Transformer> transformer,
                          worker::Transformer::Load(options.model_dir, stream));
  std::string dictionary_path = options.dictionary;
  if (dictionary_path.empty()) {
    LEXICO_ASSIGN_OR_RETURN(dictionary_path, worker::FindDefaultDictionary(options.model_dir));
  }
  LEXICO_ASSIGN_OR_RETURN(const std::shared_ptr<const worker::ModelDictionary> dictionary,
                          worker::ModelDictionary::Load(dictionary_path, transformer->config(),
                                                        transformer->fingerprint(), stream));
  base::Metrics metrics("bench");
  LEXICO_ASSIGN_OR_RETURN(
      const std::unique_ptr<worker::Engine> engine,
      worker::Engine::Create({.kv_memory_bytes = kv_memory}, transformer, dictionary, stream,
                             base::Clock::Real(), &metrics));
  std::vector<Row> rows;
  for (const int n_tokens : options.tokens) {
    for (const std::string& profile : options.profiles) {
      LEXICO_ASSIGN_OR_RETURN(Row row, Measure(*engine, profile, n_tokens, options.n_new));
      rows.push_back(std::move(row));
    }
  }
  options.json ? PrintJson(rows, kernels::MatMulUnit(stream))
               : PrintTable(rows, kernels::MatMulUnit(stream));
  return absl::OkStatus();
}

}  // namespace
}  // namespace lexico::eval

int main(int argc, char** argv) {
  lexico::kernels::cpu::EnsureShortSpin(argv);
  lexico::eval::Options options;
  CLI::App app("Measures prefill, decode and memory of one engine.", "lexico-bench-engine");
  app.add_option("--model", options.model_dir, "model folder")->capture_default_str();
  app.add_option("--dictionary", options.dictionary, "default: the model folder's");
  app.add_option("--tokens", options.tokens, "context lengths")->delimiter(',');
  app.add_option("--profiles", options.profiles, "profiles")->delimiter(',');
  app.add_option("--new", options.n_new, "tokens to decode")
      ->capture_default_str()
      ->check(CLI::Range(2, 4096));
  app.add_option("--device", options.device, "cpu, cuda, cuda:1, ...")->capture_default_str();
  app.add_option("--threads", options.threads, "0: all processors")->capture_default_str();
  app.add_option("--kv_memory", options.kv_memory, "page pool")->capture_default_str();
  app.add_flag("--json", options.json, "print JSON");
  if (const absl::Status parsed = lexico::base::ParseCommandLine(app, argc, argv); !parsed.ok()) {
    if (absl::IsCancelled(parsed)) {
      std::cout << std::string(parsed.message());
      return 0;
    }
    std::cerr << fmt::format("lexico-bench-engine: {}\n", std::string(parsed.message()));
    return 2;
  }
  if (const absl::Status status = lexico::eval::Bench(options); !status.ok()) {
    std::cerr << fmt::format("lexico-bench-engine: {}\n", status.ToString());
    return 1;
  }
  return 0;
}

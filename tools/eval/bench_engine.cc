// lexico-bench-engine: how fast one engine prefills and decodes, where the time goes, and what the
// cache takes. Random tokens: speed does not depend on what the text says.
//
// For each profile and each number of tokens: one Append of that many tokens to an empty session,
// then --new greedy tokens in each of --sessions sessions at once (bench_measure.h). Times of the
// prefill are the engine's own (CallTiming). Of a split model the share of its collective calls is
// what they take alone, one after another (bench_collectives.h). With --moves instead how fast a
// session goes to the host and comes back (bench_moves.h).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>
#include <vector>

#include "kernels/api/matmul.h"
#include "kernels/cpu/openmp.h"
#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "tools/eval/bench_collectives.h"
#include "tools/eval/bench_measure.h"
#include "tools/eval/bench_moves.h"
#include "worker/engine/engine.h"

namespace lexico::eval {
namespace {

// Of one decode step.
constexpr int kSessionsMax = 256;

struct Options {
  std::string model_dir = "models/lexico-20m";
  std::string dictionary;
  std::vector<int> tokens = {1024, 4096, 16384};
  std::vector<std::string> profiles = {"dense", "paper-s16"};
  std::vector<int> sessions = {1};
  int n_new = 64;
  std::string device = "cpu";
  int tensor_parallel = 1;
  int threads = 0;
  std::string kv_memory;
  bool graphs = true;
  bool moves = false;
  bool json = false;
};

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

// Of a split model, seconds of one rank waiting for and moving what the others have.
struct Collectives {
  double prefill = 0;
  double step = 0;
};

double PrefillRate(const BenchRow& row) {
  return row.n_tokens / Seconds(row.append.timing.prefill + row.append.timing.coding);
}
// Of the first session's call, whose steps are n_new - 1.
double AttentionPerStep(const BenchRow& row) {
  return row.n_new > 1 ? Seconds(row.decode.decode_attention) / (row.n_new - 1) : 0;
}

double FractionOfFp16(const worker::KvMemory& memory) {
  return static_cast<double>(memory.held_bytes()) /
         static_cast<double>(memory.fp16_equivalent_bytes);
}

// What a step reads at least: all weights but the embedding table, and what the sessions hold.
double StepBytes(const BenchRow& row, size_t weight_bytes) {
  return static_cast<double>(weight_bytes) +
         row.n_sessions * static_cast<double>(row.session.memory.held_bytes());
}

void PrintCollectives(const std::vector<BenchRow>& rows, const std::vector<Collectives>& shares) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const BenchRow& row = rows[i];
    const double prefill = Seconds(row.append.timing.prefill + row.append.timing.coding);
    std::cout << fmt::format(
        "collectives, {:<10} {:>7} tokens, {:>3} sessions: prefill {:.3f} s ({:.0f} %), step "
        "{:.2f} ms ({:.0f} %)\n",
        row.profile, row.n_tokens, row.n_sessions, shares[i].prefill,
        100 * shares[i].prefill / prefill, 1e3 * shares[i].step,
        100 * shares[i].step / row.step_seconds());
  }
}

void PrintTable(const std::vector<BenchRow>& rows, size_t weight_bytes, const char* matrix_unit) {
  std::cout << fmt::format("matrix products: {}\n", matrix_unit);
  std::cout << fmt::format(
      "{:<10} {:>7} | {:>9} {:>8} {:>8} {:>8} {:>8} | {:>8} {:>9} {:>8} {:>9} {:>7} | {:>10} "
      "{:>7}\n",
      "profile", "tokens", "prefill/s", "total s", "matrix s", "attn s", "coding s", "sessions",
      "tokens/s", "ms/step", "attn ms", "GB/s", "KV each", "of FP16");
  for (const BenchRow& row : rows) {
    const auto& prefill = row.append.timing;
    std::cout << fmt::format(
        "{:<10} {:>7} | {:>9.1f} {:>8.2f} {:>8.2f} {:>8.2f} {:>8.2f} | {:>8} {:>9.2f} {:>8.2f} "
        "{:>9.2f} {:>7.0f} | {:>10} {:>6.1f}%\n",
        row.profile, row.n_tokens, PrefillRate(row), Seconds(prefill.prefill + prefill.coding),
        Seconds(prefill.prefill - prefill.prefill_attention), Seconds(prefill.prefill_attention),
        Seconds(prefill.coding), row.n_sessions, row.tokens_per_second(), 1e3 * row.step_seconds(),
        1e3 * AttentionPerStep(row), StepBytes(row, weight_bytes) / row.step_seconds() / 1e9,
        base::HumanBytes(static_cast<double>(row.session.memory.held_bytes())),
        100 * FractionOfFp16(row.session.memory));
  }
}

void PrintJson(const std::vector<BenchRow>& rows, const std::vector<Collectives>& shares,
               size_t weight_bytes, const char* matrix_unit) {
  nlohmann::json out = {{"matrix_unit", matrix_unit},
                        {"weight_bytes", weight_bytes},
                        {"rows", nlohmann::json::array()}};
  for (size_t i = 0; i < rows.size(); ++i) {
    const BenchRow& row = rows[i];
    const auto& prefill = row.append.timing;
    const worker::KvMemory& memory = row.session.memory;
    out["rows"].push_back(
        {{"profile", row.profile},
         {"n_tokens", row.n_tokens},
         {"n_sessions", row.n_sessions},
         {"prefill_tokens_per_second", PrefillRate(row)},
         {"prefill_matrix_seconds", Seconds(prefill.prefill - prefill.prefill_attention)},
         {"prefill_attention_seconds", Seconds(prefill.prefill_attention)},
         {"prefill_coding_seconds", Seconds(prefill.coding)},
         {"prefill_collective_seconds", shares[i].prefill},
         {"decode_step_collective_seconds", shares[i].step},
         {"decode_tokens_per_second", row.tokens_per_second()},
         {"decode_step_seconds", row.step_seconds()},
         {"decode_step_bytes", StepBytes(row, weight_bytes)},
         {"decode_attention_seconds", Seconds(row.decode.decode_attention)},
         {"decode_coding_seconds", Seconds(row.decode.coding)},
         {"first_token_seconds", Seconds(row.decode.first_token)},
         {"code_bytes", memory.code_bytes},
         {"window_bytes", memory.window_bytes},
         {"bookkeeping_bytes", memory.bookkeeping_bytes},
         {"fp16_equivalent_bytes", memory.fp16_equivalent_bytes},
         {"fraction_of_fp16", FractionOfFp16(memory)},
         {"relative_error_k", row.append.session.mean_error.k},
         {"relative_error_v", row.append.session.mean_error.v}});
  }
  std::cout << out.dump(2) << "\n";
}

double ImportRate(const MovesRow& row, const RestoreTimes& times) {
  return 1e-9 * static_cast<double>(row.page_bytes) / times.pages_seconds;
}

void PrintMovesTable(const BusCeilings& bus, const std::vector<MovesRow>& rows, int threads,
                     bool on_device) {
  std::cout << fmt::format("pinned copies: {:.1f} GB/s to the host, {:.1f} to the device\n",
                           bus.to_host, bus.to_device);
  for (const MovesRow& row : rows) {
    const auto percent = [](double part, double whole) { return 100 * part / whole; };
    std::cout << fmt::format(
        "{}, {} tokens: {} of pages, {} of windows, exported in {:.1f} ms\n", row.profile,
        row.n_tokens, base::HumanBytes(static_cast<double>(row.page_bytes)),
        base::HumanBytes(static_cast<double>(row.window_bytes)), 1e3 * row.export_seconds);
    // On a CPU pages are read where they lie.
    if (on_device) {
      std::cout << fmt::format(
          "  to the host {:6.1f} GB/s, {:.0f}% of pinned; to the device {:6.1f} GB/s, {:.0f}%\n",
          row.to_host_gb_per_s, percent(row.to_host_gb_per_s, bus.to_host), row.to_device_gb_per_s,
          percent(row.to_device_gb_per_s, bus.to_device));
    }
    std::cout << fmt::format("  read and summed by one thread {:6.1f} GB/s\n",
                             row.to_wire_gb_per_s);
    const auto restore = [&](int n_threads, const RestoreTimes& times) {
      std::cout << fmt::format(
          "  received by {:2} threads {:6.1f} GB/s; first token after {:.3f} s "
          "({:.3f} begin, {:.3f} pages, {:.3f} windows, {:.3f} first token), {:.1f} x sooner than "
          "read again\n",
          n_threads, ImportRate(row, times), times.seconds(), times.begin_seconds,
          times.pages_seconds, times.windows_seconds, times.first_token_seconds,
          row.read_again_seconds / times.seconds());
    };
    restore(threads, row.all_threads);
    restore(1, row.one_thread);
    std::cout << fmt::format(
        "  read again {:.3f} s; a step {:.2f} ms, beside a thread that reads {:.1f} GB/s {:.2f} "
        "ms\n",
        row.read_again_seconds, 1e3 * row.step_seconds, row.beside_gb_per_s,
        1e3 * row.step_beside_seconds);
  }
}

void PrintMovesJson(const BusCeilings& bus, const std::vector<MovesRow>& rows, int threads) {
  nlohmann::json out = {{"pinned_to_host_gb_per_s", bus.to_host},
                        {"pinned_to_device_gb_per_s", bus.to_device},
                        {"threads", threads},
                        {"rows", nlohmann::json::array()}};
  const auto restore = [](const MovesRow& row, const RestoreTimes& times) -> nlohmann::json {
    return {{"gb_per_s", ImportRate(row, times)},
            {"seconds", times.seconds()},
            {"begin_seconds", times.begin_seconds},
            {"pages_seconds", times.pages_seconds},
            {"windows_seconds", times.windows_seconds},
            {"first_token_seconds", times.first_token_seconds}};
  };
  for (const MovesRow& row : rows) {
    out["rows"].push_back({{"profile", row.profile},
                           {"n_tokens", row.n_tokens},
                           {"page_bytes", row.page_bytes},
                           {"window_bytes", row.window_bytes},
                           {"read_again_seconds", row.read_again_seconds},
                           {"export_seconds", row.export_seconds},
                           {"to_host_gb_per_s", row.to_host_gb_per_s},
                           {"to_wire_gb_per_s", row.to_wire_gb_per_s},
                           {"to_device_gb_per_s", row.to_device_gb_per_s},
                           {"restore_all_threads", restore(row, row.all_threads)},
                           {"restore_one_thread", restore(row, row.one_thread)},
                           {"step_seconds", row.step_seconds},
                           {"step_beside_seconds", row.step_beside_seconds},
                           {"beside_gb_per_s", row.beside_gb_per_s}});
  }
  std::cout << out.dump(2) << "\n";
}

absl::Status BenchMoves(const Options& options, const BusCeilings& bus, worker::Engine& engine) {
  const int threads = kernels::Stream::Cpu(options.threads).threads();
  std::vector<MovesRow> rows;
  for (const int n_tokens : options.tokens) {
    for (const std::string& profile : options.profiles) {
      // A short one first: the ops of the profile are loaded at their first use.
      LEXICO_RETURN_IF_ERROR(MeasureMoves(engine, profile, 1024, threads).status());
      LEXICO_ASSIGN_OR_RETURN(const MovesRow row, MeasureMoves(engine, profile, n_tokens, threads));
      rows.push_back(row);
    }
  }
  options.json ? PrintMovesJson(bus, rows, threads)
               : PrintMovesTable(bus, rows, threads, options.device != "cpu");
  return absl::OkStatus();
}

absl::Status BenchSteps(const Options& options, std::span<const worker::ModelRank> ranks,
                        std::unique_ptr<worker::Engine> engine) {
  std::vector<BenchRow> rows;
  for (const int n_tokens : options.tokens) {
    for (const std::string& profile : options.profiles) {
      LEXICO_ASSIGN_OR_RETURN(const std::vector<BenchRow> measured,
                              MeasureEngine(*engine, {.profile = profile,
                                                      .n_tokens = n_tokens,
                                                      .n_sessions = options.sessions,
                                                      .n_new = options.n_new}));
      rows.insert(rows.end(), measured.begin(), measured.end());
    }
  }
  engine.reset();  // its memory is needed
  std::vector<Collectives> shares;
  size_t weight_bytes = 0;
  for (const BenchRow& row : rows) {
    shares.push_back({.prefill = MeasureCollectives(ranks, row.n_tokens, 1),
                      .step = MeasureCollectives(ranks, row.n_sessions, row.n_sessions)});
  }
  for (const worker::ModelRank& rank : ranks) weight_bytes += rank.transformer->weight_bytes();
  const char* const unit = kernels::MatMulUnit(ranks[0].stream);
  if (options.json) {
    PrintJson(rows, shares, weight_bytes, unit);
  } else {
    PrintTable(rows, weight_bytes, unit);
    if (ranks.size() > 1) PrintCollectives(rows, shares);
  }
  return absl::OkStatus();
}

absl::Status Bench(const Options& options) {
  size_t kv_memory = options.device == "cpu" ? size_t{2} << 30 : 0;
  if (!options.kv_memory.empty()) {
    LEXICO_RETURN_IF_ERROR(base::ParseByteSize(options.kv_memory, &kv_memory));
  }
  LEXICO_ASSIGN_OR_RETURN(
      const std::vector<kernels::Stream> streams,
      kernels::Stream::OpenRanks(options.device, options.threads, options.tensor_parallel));
  BusCeilings bus;  // before the engine takes the device's memory
  if (options.moves) {
    LEXICO_ASSIGN_OR_RETURN(bus, MeasureBus(streams[0]));
  }
  std::string dictionary_path = options.dictionary;
  if (dictionary_path.empty()) {
    LEXICO_ASSIGN_OR_RETURN(dictionary_path, worker::FindDefaultDictionary(options.model_dir));
  }
  LEXICO_ASSIGN_OR_RETURN(const std::vector<worker::ModelRank> ranks,
                          worker::LoadModelRanks(options.model_dir, dictionary_path, streams));
  base::Metrics metrics("bench");
  LEXICO_ASSIGN_OR_RETURN(std::unique_ptr<worker::Engine> engine,
                          worker::Engine::Create({.kv_memory_bytes = kv_memory,
                                                  .waiting_max = kSessionsMax,
                                                  .decode_seqs_max = kSessionsMax,
                                                  .decode_graphs = options.graphs},
                                                 ranks, base::Clock::Real(), &metrics));
  return options.moves ? BenchMoves(options, bus, *engine)
                       : BenchSteps(options, ranks, std::move(engine));
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures prefill, decode and memory of one engine.", "lexico-bench-engine");
  app.add_option("--model", options.model_dir, "model folder")->capture_default_str();
  app.add_option("--dictionary", options.dictionary, "default: the model folder's");
  app.add_option("--tokens", options.tokens, "context lengths")->delimiter(',');
  app.add_option("--profiles", options.profiles, "profiles")->delimiter(',');
  app.add_option("--sessions", options.sessions,
                 "sessions that decode together; 0 at the end: as many as fit")
      ->delimiter(',')
      ->check(CLI::Range(0, kSessionsMax));
  app.add_option("--new", options.n_new, "tokens to decode")
      ->capture_default_str()
      ->check(CLI::Range(2, 4096));
  app.add_option("--device", options.device, "cpu, cuda, cuda:1, ...")->capture_default_str();
  app.add_option("--tensor_parallel", options.tensor_parallel,
                 "devices that share the model, consecutive ones from --device's on")
      ->check(CLI::Range(1, base::kRanksMax))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "0: all processors")->capture_default_str();
  app.add_option("--kv_memory", options.kv_memory,
                 "page pool (default: 2GiB; on a device all that is left)");
  app.add_flag("--no_graphs{false}", options.graphs, "decode steps of a GPU op by op");
  app.add_flag("--moves", options.moves, "measure moves to the host and back instead");
  app.add_flag("--json", options.json, "print JSON");
  if (const absl::Status parsed = base::ParseCommandLine(app, argc, argv); !parsed.ok()) {
    if (absl::IsCancelled(parsed)) {
      std::cout << std::string(parsed.message());
      return 0;
    }
    std::cerr << fmt::format("lexico-bench-engine: {}\n", std::string(parsed.message()));
    return 2;
  }
  if (const absl::Status status = Bench(options); !status.ok()) {
    std::cerr << fmt::format("lexico-bench-engine: {}\n", status.ToString());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace lexico::eval

int main(int argc, char** argv) {
  lexico::kernels::cpu::EnsureShortSpin(argv);
  return lexico::eval::Main(argc, argv);
}

// lexico-random-model: a model folder of a known shape with random weights.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <mutex>
#include <thread>

#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "tools/random_model/random_model.h"

namespace lexico::random_model {
namespace {

struct Options {
  std::string preset;
  int n_layers = 0;
  bool list = false;
  RandomModelOptions model;
};

void PrintPresets() {
  std::cout << fmt::format("{:<14} {:>6} {:>6} {:>6} {:>5} {:>3} {:>8} {:>7} {:>9} {:>10}\n",
                           "preset", "layers", "hidden", "ffn", "heads", "kv", "head_dim", "vocab",
                           "positions", "bytes");
  for (const Preset& p : Presets()) {
    std::cout << fmt::format("{:<14} {:>6} {:>6} {:>6} {:>5} {:>3} {:>8} {:>7} {:>9} {:>10}\n",
                             p.name, p.n_layers, p.hidden_dim, p.ffn_dim, p.n_heads, p.n_kv_heads,
                             p.head_dim, p.vocab_size, p.max_positions,
                             base::HumanBytes(static_cast<double>(BytesOf(p, 0))));
  }
}

absl::Status Write(const Options& options) {
  if (options.preset.empty() || options.model.out.empty()) {
    return absl::InvalidArgumentError("--preset and --out are needed (--list shows the presets)");
  }
  LEXICO_ASSIGN_OR_RETURN(Preset preset, FindPreset(options.preset));
  if (options.n_layers > 0) preset.n_layers = options.n_layers;
  const int64_t bytes = BytesOf(preset, options.model.n_atoms);
  std::cerr << fmt::format(
      "{}: {} with {} layers takes {}, and at least {:.0f} s on {} threads; a slow disk takes "
      "longer\n",
      options.model.out, preset.name, preset.n_layers, base::HumanBytes(static_cast<double>(bytes)),
      std::ceil(SecondsFor(bytes, options.model.threads)), options.model.threads);
  std::mutex mutex;
  int percent = -1;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  LEXICO_RETURN_IF_ERROR(WriteRandomModel(preset, options.model, [&](double fraction) {
    const std::lock_guard<std::mutex> lock(mutex);
    const int now = static_cast<int>(100 * fraction);
    if (!terminal || now <= percent) return;
    percent = now;
    std::cerr << fmt::format("\rwriting {} {:3} %", options.model.out, percent) << std::flush;
  }));
  if (terminal) std::cerr << "\r\033[K";
  std::cout << fmt::format("{}: {} with {} layers, {}, seed {}\n", options.model.out, preset.name,
                           preset.n_layers, base::HumanBytes(static_cast<double>(bytes)),
                           options.model.seed);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Options options;
  options.model.threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  CLI::App app("Writes a model folder of a known shape with random weights and dictionaries.",
               "lexico-random-model");
  app.add_option("--preset", options.preset, "Shape, by name (--list)");
  app.add_option("--out", options.model.out, "Folder to write");
  app.add_option("--layers", options.n_layers, "Layers (default: the preset's)")
      ->check(CLI::Range(1, base::kLayersMax));
  app.add_option("--n_atoms", options.model.n_atoms, "Atoms of the dictionaries; 0: none")
      ->check(CLI::Range(0, base::kAtomsMax))
      ->capture_default_str();
  app.add_option("--seed", options.model.seed, "Of all random numbers")->capture_default_str();
  app.add_option("--tokenizer", options.model.tokenizer,
                 "Folder whose tokenizer is copied (default: none; servers need one)");
  app.add_option("--threads", options.model.threads, "Threads")->check(CLI::Range(1, 1024));
  app.add_flag("--list", options.list, "Print the presets and end");
  app.footer(R"(Example:
  lexico-random-model --preset llama-3.1-8b --out /tmp/8b --tokenizer models/lexico-20m
  lexico-bench-engine --model /tmp/8b --device cuda --kv_memory 40GiB)");
  if (const absl::Status parsed = base::ParseCommandLine(app, argc, argv); !parsed.ok()) {
    if (absl::IsCancelled(parsed)) {
      std::cout << std::string(parsed.message());
      return 0;
    }
    std::cerr << fmt::format("lexico-random-model: {}\n", std::string(parsed.message()));
    return 2;
  }
  if (options.list) {
    PrintPresets();
    return 0;
  }
  const absl::Status status = Write(options);
  if (status.ok()) return 0;
  std::cerr << fmt::format("lexico-random-model: {}\n", std::string(status.message()));
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? 2 : 1;
}

}  // namespace
}  // namespace lexico::random_model

int main(int argc, char** argv) { return lexico::random_model::Main(argc, argv); }

// lexico-train-dictionary: a model folder and a text in, a dictionary file out.
#include <fmt/format.h>
#include <unistd.h>

#include <iostream>

#include "absl/time/clock.h"
#include "kernels/cpu/openmp.h"
#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "tools/train_dictionary/report.h"
#include "tools/train_dictionary/train_dictionary.h"
#include "tools/train_dictionary/windows.h"

namespace lexico::train_dictionary {
namespace {

constexpr absl::Duration kLineTime = absl::Milliseconds(200);

// Lines on stderr: a bar that moves on a terminal, otherwise what is finished.
class Watcher {
 public:
  explicit Watcher(int n_rounds) : n_rounds_(n_rounds) {}
  ~Watcher() { Clear(); }
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  void Hear(const Progress& progress) {
    const absl::Time now = absl::Now();
    if (progress.stage != stage_ || first_ < 0) {
      stage_ = progress.stage;
      // A resumed training begins in the middle.
      first_ = progress.stage == Progress::Stage::kTrain
                   ? static_cast<double>(progress.n_rounds_done) / std::max(1, n_rounds_)
                   : 0;
    }
    if (progress.errors != nullptr) {
      Clear();
      std::cerr << RoundLine(progress, n_rounds_) << "\n";
    }
    const bool stage_ends = progress.fraction >= 1;
    if (terminal_ && now - line_time_ >= kLineTime) {
      line_time_ = now;
      std::cerr << "\r\033[K" << ProgressLine(progress, n_rounds_, first_, now - stage_begin_)
                << std::flush;
    }
    if (!stage_ends) return;
    Clear();
    std::cerr << StageLine(progress.stage, now - stage_begin_) << "\n";
    stage_begin_ = now;
  }

 private:
  void Clear() const {
    if (terminal_) std::cerr << "\r\033[K" << std::flush;
  }

  const int n_rounds_;
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  Progress::Stage stage_ = Progress::Stage::kRead;
  double first_ = -1;
  absl::Time stage_begin_ = absl::Now();
  absl::Time line_time_ = absl::InfinitePast();
};

void AddOptions(CLI::App& app, Options& options, bool& json) {
  app.add_option("--model", options.model_dir, "Model folder")->required();
  app.add_option("--text", options.text_files, "UTF-8 text to train on")->required();
  app.add_option("--out", options.out, "Dictionary file to write (safetensors)")->required();
  app.add_option("--n_atoms", options.n_atoms, "Atoms of a dictionary")
      ->check(CLI::Range(base::kAtomsMin, base::kAtomsMax))
      ->capture_default_str();
  app.add_option("--sparsity", options.sparsity, "Atoms of a code while training")
      ->check(CLI::Range(1, base::kSparsityMax))
      ->capture_default_str();
  app.add_option("--tokens", options.n_positions,
                 "Positions that will be served (default: the model's, or what the text allows)")
      ->check(CLI::Range(kPositionsMin, int64_t{base::kPositionsMax}));
  app.add_option("--window", options.window_tokens, "Tokens of a run of text")
      ->check(CLI::Range(kPositionsMin, int64_t{base::kPositionsMax}))
      ->capture_default_str();
  app.add_option("--samples", options.n_samples,
                 fmt::format("New vectors of a dictionary each round (default: {} an atom)",
                             kSamplesPerAtom))
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32));
  app.add_option("--held_out", options.held_out_file,
                 "Text to measure by (default: the last tenth of --text)");
  app.add_option("--from", options.from, "Dictionary to begin with (default: data and noise)");
  app.add_option("--rounds", options.n_rounds,
                 "Rounds, each on vectors of its own; 0: only measure --from")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  app.add_option("--passes", options.n_passes, "Passes of a round over its vectors")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Of all random choices")->capture_default_str();
  app.add_option("--checkpoint", options.checkpoint,
                 "File to go on from after a kill; removed when the dictionary is written");
  app.add_option("--device", options.device, "cpu, cuda, cuda:1, ...")->capture_default_str();
  app.add_option("--threads", options.threads, "CPU threads; 0: all")->check(CLI::Range(0, 1024));
  app.add_flag("--json", json, "Print JSON");
  app.footer(R"(Example:
  lexico-train-dictionary --model models/lexico-20m --text corpus.txt --n_atoms 1024 --out N1024.safetensors)");
}

int Main(int argc, char** argv) {
  Options options;
  bool json = false;
  CLI::App app("Trains the dictionaries of a model on a text.", "lexico-train-dictionary");
  AddOptions(app, options, json);
  if (const absl::Status parsed = base::ParseCommandLine(app, argc, argv); !parsed.ok()) {
    if (absl::IsCancelled(parsed)) {
      std::cout << std::string(parsed.message());
      return 0;
    }
    std::cerr << fmt::format("lexico-train-dictionary: {}\n", std::string(parsed.message()));
    return 2;
  }
  const absl::Time begin = absl::Now();
  const auto outcome = [&] {
    Watcher watcher(options.n_rounds);
    return TrainDictionary(options, [&](const Progress& progress) { watcher.Hear(progress); });
  }();
  if (!outcome.ok()) {
    const absl::Status& status = outcome.status();
    std::cerr << fmt::format("lexico-train-dictionary: {}\n", std::string(status.message()));
    return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? 2 : 1;
  }
  const absl::Duration elapsed = absl::Now() - begin;
  if (json) {
    std::cout << OutcomeJson(options, *outcome, elapsed);
    return 0;
  }
  std::cout << ErrorTable(outcome->errors)
            << fmt::format("{}: {} atoms, {} rounds of {} vectors a dictionary, {:.0f} s\n",
                           options.out, options.n_atoms, options.n_rounds, outcome->n_samples,
                           absl::ToDoubleSeconds(elapsed));
  return 0;
}

}  // namespace
}  // namespace lexico::train_dictionary

int main(int argc, char** argv) {
  lexico::kernels::cpu::EnsureShortSpin(argv);
  return lexico::train_dictionary::Main(argc, argv);
}

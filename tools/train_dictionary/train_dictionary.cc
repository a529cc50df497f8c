#include "tools/train_dictionary/train_dictionary.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "absl/status/status.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "tools/train_dictionary/checkpoint.h"
#include "tools/train_dictionary/collect.h"
#include "tools/train_dictionary/rounds.h"
#include "tools/train_dictionary/safe_file.h"
#include "tools/train_dictionary/start_atoms.h"
#include "tools/train_dictionary/windows.h"

namespace lexico::train_dictionary {
namespace {

absl::Status CheckOptions(const Options& options, const worker::ModelConfig& config) {
  if (options.n_atoms < base::kAtomsMin || options.n_atoms > base::kAtomsMax) {
    return absl::InvalidArgumentError(fmt::format(
        "--n_atoms is {}, must be in {} .. {}", options.n_atoms, base::kAtomsMin, base::kAtomsMax));
  }
  const int sparsity_max = std::min({base::kSparsityMax, config.head_dim, options.n_atoms});
  if (options.sparsity < 1 || options.sparsity > sparsity_max) {
    return absl::InvalidArgumentError(
        fmt::format("--sparsity is {}, must be in 1 .. {} for head_dim {} and {} atoms",
                    options.sparsity, sparsity_max, config.head_dim, options.n_atoms));
  }
  if (options.n_positions > config.max_positions) {
    return absl::InvalidArgumentError(fmt::format("--tokens is {}, the model has {} positions",
                                                  options.n_positions, config.max_positions));
  }
  if (options.n_rounds == 0 && options.from.empty()) {
    return absl::InvalidArgumentError("--rounds is 0: nothing to train, and no --from to measure");
  }
  const int64_t values = int64_t{2} * config.n_layers * options.n_atoms * config.head_dim;
  LEXICO_RETURN_IF_ERROR(CheckRoom(options.out, 2 * values, "--out"));
  if (options.checkpoint.empty()) return absl::OkStatus();
  return CheckRoom(options.checkpoint,
                   CheckpointBytes(2 * config.n_layers, options.n_atoms, config.head_dim),
                   "--checkpoint");
}

absl::StatusOr<Model> LoadModel(const std::string& dir, const kernels::Stream& stream) {
  Model model;
  LEXICO_ASSIGN_OR_RETURN(model.tokenizer, worker::Tokenizer::Load(dir + "/tokenizer.json"));
  LEXICO_ASSIGN_OR_RETURN(model.transformer, worker::Transformer::Load(dir, stream));
  return model;
}

int64_t SamplesWanted(const Options& options) {
  return options.n_samples > 0 ? options.n_samples : kSamplesPerAtom * options.n_atoms;
}

TrainWindows WindowsOf(const Options& options, int64_t n_positions, const Texts& texts,
                       const Model& model) {
  const int64_t n_tokens = std::min(n_positions, options.window_tokens);
  const int64_t n_rows = n_tokens * model.config().n_kv_heads;
  return TrainWindows({.n_tokens = n_tokens,
                       .n_windows = options.n_rounds * (SamplesWanted(options) / n_rows + 1),
                       .n_positions = n_positions,
                       .seed = options.seed},
                      texts, model);
}

// Vectors of a round.
absl::StatusOr<int64_t> SamplesOf(const Options& options, const WindowCount& seen, int n_kv_heads) {
  if (options.n_samples >= seen.n_vectors + kRunRows) {
    return absl::InvalidArgumentError(fmt::format(
        "the text gives {} vectors of a dictionary ({} tokens of {} KV heads), --samples is {}; "
        "give more text (--text), or --samples {} at most",
        seen.n_vectors, seen.n_tokens, n_kv_heads, options.n_samples, seen.n_vectors));
  }
  if (seen.n_vectors < options.n_atoms) {
    return absl::InvalidArgumentError(fmt::format(
        "--n_atoms is {}, more than the {} vectors of a dictionary that are seen; give more text "
        "(--text) or samples (--samples), or fewer atoms",
        options.n_atoms, seen.n_vectors));
  }
  return seen.n_vectors;
}

Facts RunFacts(const Options& options, const Model& model, const Texts& texts, int64_t n_positions,
               int64_t n_samples, const std::string& start) {
  const auto number = [](auto value) { return fmt::format("{}", value); };
  return {{"model_fingerprint", model.transformer->fingerprint().ToHex()},
          {"tokenizer_fingerprint", model.tokenizer->fingerprint().ToHex()},
          {"text_fingerprint", texts.text.fingerprint().ToHex()},
          {"held_out_fingerprint", texts.measured().fingerprint().ToHex()},
          {"train_start", start},
          {"atoms", number(options.n_atoms)},
          {"train_sparsity", number(options.sparsity)},
          {"train_positions", number(n_positions)},
          {"train_window", number(options.window_tokens)},
          {"train_samples", number(n_samples)},
          {"train_rounds", number(options.n_rounds)},
          {"train_passes", number(options.n_passes)},
          {"train_seed", number(options.seed)}};
}

// Nothing where there is no checkpoint.
absl::StatusOr<std::optional<Checkpoint>> FindCheckpoint(const Options& options, const Facts& run,
                                                         const worker::ModelConfig& config) {
  std::error_code error;
  if (options.checkpoint.empty() || !std::filesystem::exists(options.checkpoint, error)) {
    return std::nullopt;
  }
  return ReadCheckpoint(options.checkpoint, run, 2 * config.n_layers, options.n_atoms,
                        config.head_dim);
}

absl::Status WriteDictionary(const Options& options, const Facts& run,
                             const std::vector<Atoms>& atoms,
                             const std::vector<HeldOutError>& errors) {
  std::vector<std::vector<uint16_t>> halves;
  std::vector<OutTensor> tensors;
  Facts metadata = run;
  metadata.emplace_back("layout", "atoms,head_dim; unit norm; keys after RoPE");
  metadata.emplace_back("held_out_error.k", fmt::format("{:.4f}", MeanError(errors, false)));
  metadata.emplace_back("held_out_error.v", fmt::format("{:.4f}", MeanError(errors, true)));
  halves.reserve(atoms.size());
  for (size_t i = 0; i < atoms.size(); ++i) {
    halves.push_back(ToF16(atoms[i].rows));
    const std::string name = DictionaryName(static_cast<int>(i));
    tensors.push_back({name,
                       "F16",
                       {atoms[i].n_atoms, atoms[i].head_dim},
                       {reinterpret_cast<const uint8_t*>(halves[i].data()), 2 * halves[i].size()}});
    metadata.emplace_back("held_out_error." + name, fmt::format("{:.4f}", errors[i].all));
  }
  return WriteWhole(options.out, SafetensorsBytes(tensors, metadata), "--out");
}

}  // namespace

double MeanError(const std::vector<HeldOutError>& errors, bool value) {
  double sum = 0;
  for (size_t i = value ? 1 : 0; i < errors.size(); i += 2) sum += errors[i].all;
  return sum / (static_cast<double>(errors.size()) / 2);
}

absl::StatusOr<Outcome> TrainDictionary(const Options& options,
                                        const std::function<void(const Progress&)>& watch) {
  LEXICO_ASSIGN_OR_RETURN(const kernels::Stream stream,
                          kernels::Stream::Open(options.device, options.threads));
  LEXICO_ASSIGN_OR_RETURN(const Model model, LoadModel(options.model_dir, stream));
  const worker::ModelConfig& config = model.config();
  LEXICO_RETURN_IF_ERROR(CheckOptions(options, config));
  std::optional<StartAtoms> start;
  if (!options.from.empty()) {
    LEXICO_ASSIGN_OR_RETURN(start, ReadStartAtoms(options.from, config, options.n_atoms));
  }
  LEXICO_ASSIGN_OR_RETURN(const Texts texts,
                          Texts::Open(options.text_files, options.held_out_file));
  LEXICO_ASSIGN_OR_RETURN(const HeldOut held_out, ReadHeldOut(options.n_positions, texts, model));
  const TrainWindows windows = WindowsOf(options, held_out.n_positions, texts, model);
  WindowCount seen;
  int64_t n_samples = 0;
  if (options.n_rounds > 0) {
    LEXICO_ASSIGN_OR_RETURN(seen, CountWindows(windows, config.n_kv_heads, SamplesWanted(options)));
    LEXICO_ASSIGN_OR_RETURN(n_samples, SamplesOf(options, seen, config.n_kv_heads));
  }
  const Facts run = RunFacts(options, model, texts, held_out.n_positions, n_samples,
                             start.has_value() ? start->fingerprint.ToHex() : "data and noise");
  LEXICO_ASSIGN_OR_RETURN(std::optional<Checkpoint> checkpoint,
                          FindCheckpoint(options, run, config));
  watch({.stage = Progress::Stage::kRead, .fraction = 1});

  LEXICO_ASSIGN_OR_RETURN(Collector collector,
                          Collector::Create(model, held_out.n_positions, stream));
  LEXICO_ASSIGN_OR_RETURN(const VectorSet measured,
                          collector.CollectHeldOut(held_out, [&](double fraction) {
                            watch({.stage = Progress::Stage::kHeldOut, .fraction = fraction});
                          }));
  LEXICO_ASSIGN_OR_RETURN(const auto trainer,
                          Trainer::Create({.n_atoms = options.n_atoms,
                                           .sparsity = options.sparsity,
                                           .n_rounds = options.n_rounds,
                                           .n_passes = options.n_passes,
                                           .seed = options.seed},
                                          2 * config.n_layers, config.head_dim, n_samples, stream));
  if (checkpoint.has_value()) {
    trainer->Begin(checkpoint->atoms, checkpoint->n_rounds_done);
  } else if (start.has_value()) {
    trainer->Begin(start->atoms, 0);
  }
  const int n_rounds_resumed = trainer->n_rounds_done();
  const bool begun = checkpoint.has_value() || start.has_value();
  const Rounds rounds{options, run, windows, seen.n_windows, n_samples, begun, watch};
  LEXICO_RETURN_IF_ERROR(RunRounds(rounds, model, measured, &collector, trainer.get(), stream));
  LEXICO_ASSIGN_OR_RETURN(std::vector<HeldOutError> errors,
                          trainer->Validate(measured, measured.n_vectors()));
  LEXICO_RETURN_IF_ERROR(WriteDictionary(options, run, trainer->atoms(), errors));
  std::error_code ignored;
  if (!options.checkpoint.empty()) std::filesystem::remove(options.checkpoint, ignored);
  return Outcome{.errors = std::move(errors),
                 .n_positions = held_out.n_positions,
                 .n_samples = n_samples,
                 .n_tokens = collector.n_tokens(),
                 .n_rounds_resumed = n_rounds_resumed};
}

}  // namespace lexico::train_dictionary

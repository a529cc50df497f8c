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
#include "tools/train_dictionary/safe_file.h"
#include "tools/train_dictionary/start_atoms.h"
#include "tools/train_dictionary/windows.h"

namespace lexico::train_dictionary {
namespace {

// Held-out vectors of a dictionary that are coded after each round; the file is judged by all.
constexpr int64_t kRoundVectors = 4096;

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

absl::StatusOr<int64_t> SamplesOf(const Options& options, const Windows& windows,
                                  const worker::ModelConfig& config, int64_t wanted) {
  const int64_t seen = TokensOf(windows.train) * config.n_kv_heads;
  if (options.n_samples > seen) {
    return absl::InvalidArgumentError(fmt::format(
        "the text gives {} vectors of a dictionary ({} tokens of {} KV heads), --samples is {}; "
        "give more text (--text), or --samples {} at most",
        seen, TokensOf(windows.train), config.n_kv_heads, options.n_samples, seen));
  }
  const int64_t n = std::min(wanted, seen);
  if (n < options.n_atoms) {
    return absl::InvalidArgumentError(fmt::format(
        "--n_atoms is {}, more than the {} vectors of a dictionary that are seen; give more text "
        "(--text) or samples (--samples), or fewer atoms",
        options.n_atoms, n));
  }
  return n;
}

Facts RunFacts(const Options& options, const Model& model, const Texts& texts,
               const Windows& windows, int64_t n_samples, const std::string& start) {
  const auto number = [](auto value) { return fmt::format("{}", value); };
  return {{"model_fingerprint", model.transformer->fingerprint().ToHex()},
          {"tokenizer_fingerprint", model.tokenizer->fingerprint().ToHex()},
          {"text_fingerprint", texts.text.fingerprint().ToHex()},
          {"held_out_fingerprint", texts.measured().fingerprint().ToHex()},
          {"train_start", start},
          {"atoms", number(options.n_atoms)},
          {"train_sparsity", number(options.sparsity)},
          {"train_positions", number(windows.n_positions)},
          {"train_tokens", number(TokensOf(windows.train))},
          {"train_windows", number(windows.train.size())},
          {"train_samples", number(n_samples)},
          {"train_rounds", number(options.n_rounds)},
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

absl::StatusOr<std::vector<HeldOutError>> RunRounds(
    const Options& options, const Facts& run, const VectorSet& held_out, Trainer* trainer,
    const std::function<void(const Progress&)>& watch) {
  std::vector<HeldOutError> errors;
  const int64_t n_round = std::min(kRoundVectors, held_out.n_vectors());
  while (trainer->n_rounds_done() < options.n_rounds) {
    const int done = trainer->n_rounds_done();
    LEXICO_RETURN_IF_ERROR(trainer->RunRound([&](double part) {
      watch({.stage = Progress::Stage::kTrain,
             .fraction = (done + part) / options.n_rounds,
             .n_rounds_done = done});
    }));
    if (!options.checkpoint.empty()) {
      LEXICO_RETURN_IF_ERROR(
          WriteCheckpoint(options.checkpoint, run, trainer->atoms(), trainer->n_rounds_done()));
    }
    LEXICO_ASSIGN_OR_RETURN(errors, trainer->Validate(held_out, n_round));
    watch({.stage = Progress::Stage::kTrain,
           .fraction = static_cast<double>(trainer->n_rounds_done()) / options.n_rounds,
           .n_rounds_done = trainer->n_rounds_done(),
           .errors = &errors});
  }
  return trainer->Validate(held_out, held_out.n_vectors());
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
  Model model;
  LEXICO_ASSIGN_OR_RETURN(model.tokenizer,
                          worker::Tokenizer::Load(options.model_dir + "/tokenizer.json"));
  LEXICO_ASSIGN_OR_RETURN(model.transformer, worker::Transformer::Load(options.model_dir, stream));
  LEXICO_RETURN_IF_ERROR(CheckOptions(options, model.config()));
  std::optional<StartAtoms> start;
  if (!options.from.empty()) {
    LEXICO_ASSIGN_OR_RETURN(start, ReadStartAtoms(options.from, model.config(), options.n_atoms));
  }
  LEXICO_ASSIGN_OR_RETURN(const Texts texts,
                          Texts::Open(options.text_files, options.held_out_file));
  const int64_t wanted =
      options.n_samples > 0 ? options.n_samples : kSamplesPerAtom * options.n_atoms;
  LEXICO_ASSIGN_OR_RETURN(const Windows windows,
                          ReadWindows({.n_positions = options.n_positions,
                                       .window_tokens = options.window_tokens,
                                       .n_samples = wanted},
                                      texts, model));
  LEXICO_ASSIGN_OR_RETURN(const int64_t n_samples,
                          SamplesOf(options, windows, model.config(), wanted));
  const Facts run = RunFacts(options, model, texts, windows, n_samples,
                             start.has_value() ? start->fingerprint.ToHex() : "data and noise");
  LEXICO_ASSIGN_OR_RETURN(std::optional<Checkpoint> checkpoint,
                          FindCheckpoint(options, run, model.config()));
  watch({.stage = Progress::Stage::kRead, .fraction = 1});

  LEXICO_ASSIGN_OR_RETURN(
      const Vectors vectors,
      CollectVectors(windows, model, n_samples, options.seed, stream, [&](double fraction) {
        watch({.stage = Progress::Stage::kGather, .fraction = fraction});
      }));
  LEXICO_ASSIGN_OR_RETURN(const auto trainer, Trainer::Create({.n_atoms = options.n_atoms,
                                                               .sparsity = options.sparsity,
                                                               .n_rounds = options.n_rounds,
                                                               .seed = options.seed},
                                                              &vectors.train, stream));
  if (start.has_value()) trainer->Resume(std::move(start->atoms), 0);
  if (checkpoint.has_value()) {
    trainer->Resume(std::move(checkpoint->atoms), checkpoint->n_rounds_done);
  }
  Outcome outcome{.errors = {},
                  .n_positions = windows.n_positions,
                  .n_samples = n_samples,
                  .n_tokens = TokensOf(windows.train),
                  .n_rounds_resumed = trainer->n_rounds_done()};
  LEXICO_ASSIGN_OR_RETURN(outcome.errors,
                          RunRounds(options, run, vectors.held_out, trainer.get(), watch));
  LEXICO_RETURN_IF_ERROR(WriteDictionary(options, run, trainer->atoms(), outcome.errors));
  std::error_code ignored;
  if (!options.checkpoint.empty()) std::filesystem::remove(options.checkpoint, ignored);
  return outcome;
}

}  // namespace lexico::train_dictionary

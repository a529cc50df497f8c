#include "tools/train_dictionary/rounds.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "proto/base/status.h"
#include "tools/train_dictionary/checkpoint.h"

namespace lexico::train_dictionary {
namespace {

// Held-out vectors of a dictionary that are coded after each round; the file is judged by all.
constexpr int64_t kRoundVectors = 4096;
// Random numbers (vector_set.h) of the orders of sets.
constexpr uint64_t kSetStream = uint64_t{5} << 60;

// Tells how far a training is. Gathering counts as the part of a round's time that it took so far.
class RoundWatch {
 public:
  explicit RoundWatch(const Rounds& rounds) : rounds_(rounds) {}

  void Begin(int n_rounds_done) {
    n_rounds_done_ = n_rounds_done;
    begin_ = absl::Now();
  }
  void Gathered(double part) const { Tell(part * gather_share_); }
  void EndGathering() { gathering_ += absl::Now() - begin_; }
  void Trained(double part) const { Tell(gather_share_ + part * (1 - gather_share_)); }
  void End(const std::vector<HeldOutError>& errors) {
    all_ += absl::Now() - begin_;
    gather_share_ = absl::FDivDuration(gathering_, all_);
    rounds_.watch({.stage = Progress::Stage::kTrain,
                   .fraction = Fraction(1),
                   .n_rounds_done = n_rounds_done_ + 1,
                   .errors = &errors});
  }

 private:
  double Fraction(double part) const { return (n_rounds_done_ + part) / rounds_.options.n_rounds; }
  void Tell(double part) const {
    // The round ends with its errors.
    rounds_.watch({.stage = Progress::Stage::kTrain,
                   .fraction = std::min(Fraction(part), Fraction(1) - 1e-9),
                   .n_rounds_done = n_rounds_done_});
  }

  const Rounds& rounds_;
  int n_rounds_done_ = 0;
  double gather_share_ = 0.5;  // until the first round has told
  absl::Time begin_;
  absl::Duration gathering_;
  absl::Duration all_;
};

}  // namespace

absl::Status RunRounds(const Rounds& rounds, const Model& model, const VectorSet& held_out,
                       Collector* collector, Trainer* trainer, const kernels::Stream& stream) {
  const Options& options = rounds.options;
  if (trainer->n_rounds_done() >= options.n_rounds) return absl::OkStatus();
  const worker::ModelConfig& config = model.config();
  LEXICO_ASSIGN_OR_RETURN(
      VectorSet set,
      VectorSet::Create({.n_dictionaries = 2 * config.n_layers,
                         .n_kv_heads = config.n_kv_heads,
                         .head_dim = config.head_dim,
                         .n_vectors = rounds.n_samples,
                         .window_rows_max = rounds.windows.n_tokens_max() * config.n_kv_heads,
                         .norm = kTrainNorm},
                        stream));
  RoundWatch watch(rounds);
  while (trainer->n_rounds_done() < options.n_rounds) {
    const int round = trainer->n_rounds_done();
    watch.Begin(round);
    LEXICO_RETURN_IF_ERROR(collector->Refill(
        rounds.windows, round * rounds.n_windows, RandomAt(options.seed, kSetStream, round),
        [&](double part) { watch.Gathered(part); }, &set));
    watch.EndGathering();
    if (round == 0 && !rounds.begun) LEXICO_RETURN_IF_ERROR(trainer->BeginFromData(set));
    LEXICO_RETURN_IF_ERROR(trainer->RunRound(set, [&](double part) { watch.Trained(part); }));
    if (!options.checkpoint.empty()) {
      LEXICO_RETURN_IF_ERROR(WriteCheckpoint(options.checkpoint, rounds.run, trainer->atoms(),
                                             trainer->n_rounds_done()));
    }
    LEXICO_ASSIGN_OR_RETURN(
        const std::vector<HeldOutError> errors,
        trainer->Validate(held_out, std::min(kRoundVectors, held_out.n_vectors())));
    watch.End(errors);
  }
  return absl::OkStatus();
}

}  // namespace lexico::train_dictionary

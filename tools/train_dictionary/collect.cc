#include "tools/train_dictionary/collect.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "proto/base/status.h"
#include "tools/train_dictionary/gather.h"

namespace lexico::train_dictionary {
namespace {

// Vectors of a dictionary to judge by: the mean error is then known to about 0.001.
constexpr int64_t kHeldOutVectors = 16384;
constexpr uint64_t kHeldOutSeed = 0x9e37;
// Random numbers (vector_set.h) of where windows stand.
constexpr uint64_t kPositionStream = uint64_t{3} << 60;

class Collector {
 public:
  // `progress` hears the part that is done of the tokens that Expect announces.
  static absl::StatusOr<Collector> Create(const Model& model, int64_t n_tokens_max,
                                          std::function<void(double)> progress,
                                          const kernels::Stream& stream) {
    Collector collector(model, std::move(progress));
    LEXICO_ASSIGN_OR_RETURN(collector.gatherer_,
                            Gatherer::Create(*model.transformer, n_tokens_max, stream));
    return collector;
  }
  void Expect(int64_t n_tokens) { n_expected_ = n_tokens; }

  // Fills `set` with as large a part of each window's vectors as of any other's. Window w stands
  // from first_position(w, ids) on.
  template <typename FirstPosition>
  absl::Status Collect(const std::vector<Ids>& windows, const FirstPosition& first_position,
                       VectorSet* set) {
    const int n_kv_heads = model_.config().n_kv_heads;
    const int64_t n_all = TokensOf(windows);
    int64_t n_seen = 0;
    for (size_t w = 0; w < windows.size(); ++w) {
      const auto n_ids = static_cast<int64_t>(windows[w].size());
      const int64_t first = first_position(w, windows[w]);
      n_seen += n_ids;
      const int64_t n = set->n_vectors() * n_seen / n_all - set->n_filled();
      const std::vector<Pick> picks = set->Choose(n, n_ids * n_kv_heads, n_kv_heads, first);
      LEXICO_RETURN_IF_ERROR(gatherer_->Run(
          windows[w], first,
          [&](int dictionary, const float* rows) { return set->Keep(dictionary, rows, picks); }));
      n_done_ += n_ids;
      progress_(static_cast<double>(n_done_) / static_cast<double>(n_expected_));
    }
    return absl::OkStatus();
  }

 private:
  Collector(const Model& model, std::function<void(double)> progress)
      : model_(model), progress_(std::move(progress)) {}

  const Model& model_;
  std::function<void(double)> progress_;
  std::unique_ptr<Gatherer> gatherer_;
  int64_t n_expected_ = 0;
  int64_t n_done_ = 0;
};

}  // namespace

absl::StatusOr<Vectors> CollectVectors(const Windows& windows, const Model& model,
                                       int64_t n_samples, uint64_t seed,
                                       const kernels::Stream& stream,
                                       std::function<void(double)> progress) {
  const worker::ModelConfig& config = model.config();
  const int64_t n_held_out =
      std::min(kHeldOutVectors, TokensOf(windows.held_out) * config.n_kv_heads);
  Vectors vectors{VectorSet(config.n_layers, config.head_dim, n_samples, seed),
                  VectorSet(config.n_layers, config.head_dim, n_held_out, kHeldOutSeed)};
  LEXICO_ASSIGN_OR_RETURN(Collector collector, Collector::Create(model, windows.n_positions,
                                                                 std::move(progress), stream));
  collector.Expect(TokensOf(windows.train) + TokensOf(windows.held_out));
  const auto anywhere = [&](size_t window, const Ids& ids) {
    const auto n_starts = windows.n_positions - static_cast<int64_t>(ids.size()) + 1;
    return static_cast<int64_t>(RandomAt(seed, kPositionStream, window) %
                                static_cast<uint64_t>(n_starts));
  };
  LEXICO_RETURN_IF_ERROR(collector.Collect(windows.train, anywhere, &vectors.train));
  const auto from_zero = [](size_t, const Ids&) { return int64_t{0}; };
  LEXICO_RETURN_IF_ERROR(collector.Collect(windows.held_out, from_zero, &vectors.held_out));
  return vectors;
}

}  // namespace lexico::train_dictionary

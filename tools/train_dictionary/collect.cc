#include "tools/train_dictionary/collect.h"

#include <algorithm>

#include "absl/status/status.h"
#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::train_dictionary {
namespace {

// Vectors of a dictionary to judge by: the mean error is then known to about 0.001.
constexpr int64_t kHeldOutVectors = 16384;
constexpr uint64_t kHeldOutSeed = 0x9e37;

}  // namespace

absl::StatusOr<Collector> Collector::Create(const Model& model, int64_t n_tokens_max,
                                            const kernels::Stream& stream) {
  Collector collector(model, stream);
  LEXICO_ASSIGN_OR_RETURN(collector.gatherer_,
                          Gatherer::Create(*model.transformer, n_tokens_max, stream));
  return collector;
}

absl::Status Collector::Collect(const Ids& ids, int64_t first_position, int64_t n_runs,
                                VectorSet* set) {
  const int64_t n_rows = std::ssize(ids) * model_.config().n_kv_heads;
  set->BeginWindow(n_rows, n_runs, first_position);
  gatherer_->Run(ids, first_position, [&](int dictionary, kernels::MutableTensorView rows) {
    set->Keep(dictionary, rows);
  });
  n_tokens_ += std::ssize(ids);
  return set->EndWindow();
}

absl::StatusOr<VectorSet> Collector::CollectHeldOut(const HeldOut& held_out,
                                                    const std::function<void(double)>& progress) {
  const worker::ModelConfig& config = model_.config();
  const int64_t n_all = TokensOf(held_out.windows);
  int64_t n_runs = 0;
  for (const Ids& ids : held_out.windows) n_runs += std::ssize(ids) * config.n_kv_heads / kRunRows;
  n_runs = std::min(n_runs, kHeldOutVectors / kRunRows);
  LEXICO_ASSIGN_OR_RETURN(
      VectorSet set, VectorSet::Create({.n_dictionaries = 2 * config.n_layers,
                                        .n_kv_heads = config.n_kv_heads,
                                        .head_dim = config.head_dim,
                                        .n_vectors = n_runs * kRunRows,
                                        .window_rows_max = held_out.n_positions * config.n_kv_heads,
                                        .norm = 0},
                                       stream_));
  set.Clear(kHeldOutSeed);
  int64_t n_seen = 0;
  for (const Ids& ids : held_out.windows) {
    n_seen += std::ssize(ids);
    const int64_t n = n_runs * n_seen / n_all - set.n_filled() / kRunRows;
    LEXICO_RETURN_IF_ERROR(Collect(ids, 0, n, &set));
    progress(static_cast<double>(n_seen) / static_cast<double>(n_all));
  }
  return set;
}

absl::Status Collector::Refill(const TrainWindows& windows, int64_t first, uint64_t seed,
                               const std::function<void(double)>& progress, VectorSet* set) {
  set->Clear(seed);
  for (int64_t i = 0; !set->full(); ++i) {
    if (i == windows.n_different()) {
      return absl::ResourceExhaustedError("the text has fewer vectors than when it was counted");
    }
    LEXICO_ASSIGN_OR_RETURN(const TrainWindows::Window window, windows.Read(first + i));
    if (window.ids.empty()) continue;
    LEXICO_RETURN_IF_ERROR(Collect(window.ids, window.first_position, set->n_vectors(), set));
    progress(static_cast<double>(set->n_filled()) / static_cast<double>(set->n_vectors()));
  }
  return absl::OkStatus();
}

absl::StatusOr<WindowCount> CountWindows(const TrainWindows& windows, int n_kv_heads,
                                         int64_t n_wanted) {
  WindowCount count;
  while (count.n_vectors < n_wanted && count.n_windows < windows.n_different()) {
    LEXICO_ASSIGN_OR_RETURN(const TrainWindows::Window window, windows.Read(count.n_windows));
    const int64_t n_tokens = std::ssize(window.ids);
    ++count.n_windows;
    count.n_tokens += n_tokens;
    count.n_vectors += n_tokens * n_kv_heads / kRunRows * kRunRows;
  }
  count.n_vectors = std::min(count.n_vectors, n_wanted / kRunRows * kRunRows);
  return count;
}

}  // namespace lexico::train_dictionary

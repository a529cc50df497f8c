#include "tools/eval/bench_collectives.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/api/device_buffer.h"
#include "kernels/api/rank_team.h"
#include "proto/base/check.h"

namespace lexico::eval {
namespace {

// One rank's calls of a pass: after every half layer the sum of its rows, then the logits.
class Pass {
 public:
  Pass(const worker::ModelRank& rank, int64_t n_rows, int64_t n_logits)
      : rank_(rank), n_rows_(n_rows), n_logits_(n_logits) {
    const worker::ModelConfig& config = rank.transformer->config();
    hidden_ = Zeros(n_rows * config.hidden_dim);
    local_ = Zeros(n_logits * config.vocab_size);
    logits_ = Zeros(n_logits * config.vocab_size);
  }

  void Run() const {
    const worker::Transformer& model = *rank_.transformer;
    const worker::ModelConfig& config = model.config();
    const int64_t block = model.row_block();
    for (int i = 0; i < 2 * config.n_layers; ++i) {
      for (int64_t row = 0; row < n_rows_; row += block) {
        const int64_t rows = std::min(block, n_rows_ - row);
        model.communicator()->AllReduceSum(hidden_.as<float>() + row * config.hidden_dim,
                                           rows * config.hidden_dim, rank_.stream);
      }
    }
    model.communicator()->AllGatherColumns(local_.as<float>(), n_logits_, config.vocab_size,
                                           logits_.as<float>(), rank_.stream);
    rank_.stream.Synchronize();
  }

 private:
  kernels::DeviceBuffer Zeros(int64_t n) const {
    const size_t bytes = static_cast<size_t>(n) * sizeof(float);
    auto buffer = kernels::DeviceBuffer::Allocate(bytes, rank_.stream);
    LEXICO_CHECK(buffer.ok());
    rank_.stream.Zero(buffer->as<void>(), bytes);
    return *std::move(buffer);
  }

  const worker::ModelRank& rank_;
  const int64_t n_rows_;
  const int64_t n_logits_;
  kernels::DeviceBuffer hidden_;  // [n_rows, hidden_dim]
  kernels::DeviceBuffer local_;   // [n_logits, part of vocab_size]
  kernels::DeviceBuffer logits_;  // [n_logits, vocab_size]
};

}  // namespace

double MeasureCollectives(std::span<const worker::ModelRank> ranks, int64_t n_rows,
                          int64_t n_logits) {
  if (ranks.size() == 1) return 0;
  std::vector<Pass> passes;
  for (const worker::ModelRank& rank : ranks) passes.emplace_back(rank, n_rows, n_logits);
  kernels::RankTeam team(static_cast<int>(ranks.size()));
  std::vector<double> seconds;
  for (int round = 0; round < 6; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    team.Run([&](int rank) { passes[rank].Run(); });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    if (round > 0) seconds.push_back(took.count());  // the first one warms up
  }
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

}  // namespace lexico::eval

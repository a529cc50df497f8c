#include "worker/model/model_shard.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "absl/status/status.h"
#include "proto/base/check.h"
#include "proto/base/limits.h"

namespace lexico::worker {
namespace {

// What keeps a model from being split, or nothing.
std::string Obstacle(const ModelConfig& model, int size) {
  if (model.n_heads % size != 0) {
    return fmt::format("its {} query heads are no multiple of {}", model.n_heads, size);
  }
  if (model.n_kv_heads % size != 0 && size % model.n_kv_heads != 0) {
    return fmt::format("its {} KV heads are neither a multiple nor a divisor of {}",
                       model.n_kv_heads, size);
  }
  if (model.ffn_dim % size != 0) {
    return fmt::format("its MLP's {} columns are no multiple of {}", model.ffn_dim, size);
  }
  if (kernels::PartOfRank(model.vocab_size, size - 1, size).count == 0) {
    return fmt::format("its vocabulary of {} is too small", model.vocab_size);
  }
  return "";
}

}  // namespace

absl::StatusOr<ModelShard> ShardOfRank(const ModelConfig& model, int rank, int size) {
  LEXICO_CHECK_GE(rank, 0);
  LEXICO_CHECK_LT(rank, size);
  if (const std::string obstacle = Obstacle(model, size); !obstacle.empty()) {
    std::vector<int> sizes;
    for (int n = 1; n <= base::kRanksMax; ++n) {
      if (Obstacle(model, n).empty()) sizes.push_back(n);
    }
    return absl::InvalidArgumentError(
        fmt::format("the model cannot be split over {} devices: {}; possible are {}", size,
                    obstacle, fmt::join(sizes, ", ")));
  }
  ModelShard shard{.config = model};
  shard.config.n_heads = model.n_heads / size;
  shard.config.n_kv_heads = std::max(1, model.n_kv_heads / size);
  shard.config.ffn_dim = model.ffn_dim / size;
  shard.heads = kernels::PartOfRank(model.n_heads, rank, size);
  shard.kv_heads = {int64_t{rank} * model.n_kv_heads / size, shard.config.n_kv_heads};
  shard.ffn = kernels::PartOfRank(model.ffn_dim, rank, size);
  shard.vocab = kernels::PartOfRank(model.vocab_size, rank, size);
  return shard;
}

}  // namespace lexico::worker

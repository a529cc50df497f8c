// Which part of a model each of several ranks computes (docs/adr/0012-tensor-parallelism.md).
//
//   query heads   n_heads / size consecutive ones
//   KV heads      n_kv_heads / size consecutive ones; where there are fewer heads than ranks, the
//                 one that the rank's query heads share: size / n_kv_heads ranks have the same
//   MLP           ffn_dim / size consecutive columns of gate and up
//   vocabulary    rows of lm_head as kernels::PartOfRank says
// Embedding table and norms are on every rank.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/api/collective.h"
#include "worker/model/config.h"

namespace lexico::worker {

struct ModelShard {
  // The model's, but n_heads, n_kv_heads and ffn_dim of the rank.
  ModelConfig config;
  kernels::RankPart heads;
  kernels::RankPart kv_heads;
  kernels::RankPart ffn;
  kernels::RankPart vocab;
};

// InvalidArgument with the number that cannot be split, and the sizes that work. REQUIRES:
// 0 <= rank < size.
absl::StatusOr<ModelShard> ShardOfRank(const ModelConfig& model, int rank, int size);

}  // namespace lexico::worker

#include "worker/model/exact_decoder.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "absl/status/status.h"
#include "kernels/api/dense_attention.h"
#include "proto/base/status.h"

namespace lexico::worker {
namespace {

using kernels::MutableTensorView;
using kernels::TensorView;

absl::Status CheckIds(const ModelConfig& config, std::span<const int32_t> ids, int64_t n_tokens,
                      int64_t n_logits) {
  const auto n = static_cast<int64_t>(ids.size());
  if (n == 0) return absl::InvalidArgumentError("no token ids; at least one is needed");
  if (n_logits < 1 || n_logits > n) {
    return absl::InvalidArgumentError(
        fmt::format("logits of {} rows, must be within 1 .. {} ids", n_logits, n));
  }
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] < 0 || ids[i] >= config.vocab_size) {
      return absl::InvalidArgumentError(fmt::format("token id {} at place {} is outside 0 .. {}",
                                                    ids[i], i, config.vocab_size - 1));
    }
  }
  if (n_tokens + n > config.max_positions) {
    return absl::InvalidArgumentError(
        fmt::format("{} tokens, the model has {} positions", n_tokens + n, config.max_positions));
  }
  return absl::OkStatus();
}

}  // namespace

void AttendToRows(const ModelConfig& config, std::span<const float> q, std::span<const float> k,
                  std::span<const float> v, std::span<float> attention,
                  const kernels::Stream& stream) {
  const auto n = static_cast<int64_t>(q.size()) / config.q_dim();
  const auto n_keys = static_cast<int64_t>(k.size()) / config.kv_dim();
  kernels::PrefillAttention(
      {.q = TensorView(q.data(), {n, config.n_heads, config.head_dim}),
       .k = TensorView(k.data(), {n_keys, config.n_kv_heads, config.head_dim}),
       .v = TensorView(v.data(), {n_keys, config.n_kv_heads, config.head_dim}),
       .first_position = n_keys - n,
       .scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim)),
       .allow_bf16 = false,
       .out = MutableTensorView(attention.data(), {n, config.n_heads, config.head_dim})},
      stream);
}

ExactDecoder::ExactDecoder(const Transformer& transformer, const kernels::Stream& stream)
    : transformer_(transformer), stream_(stream), layers_(transformer.config().n_layers) {}

absl::StatusOr<std::vector<float>> ExactDecoder::Append(std::span<const int32_t> ids,
                                                        int64_t n_logits) {
  const ModelConfig& config = transformer_.local_config();
  LEXICO_RETURN_IF_ERROR(CheckIds(config, ids, n_tokens_, n_logits));
  const auto n = static_cast<int64_t>(ids.size());
  std::vector<int32_t> positions(n);
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(n_tokens_));
  std::vector<float> hidden(n * config.hidden_dim);
  std::vector<float> q(n * config.q_dim());
  std::vector<float> attention(n * config.q_dim());

  transformer_.Embed(ids, hidden.data());
  const int64_t n_keys = n_tokens_ + n;
  for (int layer = 0; layer < config.n_layers; ++layer) {
    LayerCache& cache = layers_[layer];
    cache.k.resize(n_keys * config.kv_dim());
    cache.v.resize(n_keys * config.kv_dim());
    const int64_t offset = n_tokens_ * config.kv_dim();
    transformer_.AttentionInputs(layer, hidden.data(), n, positions.data(), q.data(),
                                 cache.k.data() + offset, cache.v.data() + offset, scratch_);
    AttendToRows(config, q, cache.k, cache.v, attention, stream_);
    transformer_.AttentionOutputs(layer, TensorView(attention.data(), {n, config.q_dim()}),
                                  hidden.data(), scratch_);
  }
  n_tokens_ = n_keys;
  std::vector<float> logits(n_logits * config.vocab_size);
  transformer_.Logits(hidden.data() + (n - n_logits) * config.hidden_dim, n_logits, logits.data(),
                      scratch_);
  return logits;
}

}  // namespace lexico::worker

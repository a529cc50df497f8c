#include "tools/train_dictionary/gather.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/api/dense_attention.h"
#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::train_dictionary {

using kernels::DeviceBuffer;
using kernels::MutableTensorView;
using kernels::TensorView;

absl::StatusOr<std::unique_ptr<Gatherer>> Gatherer::Create(const worker::Transformer& transformer,
                                                           int64_t n_tokens_max,
                                                           const kernels::Stream& stream) {
  auto gatherer = std::unique_ptr<Gatherer>(new Gatherer(transformer, stream));
  const worker::ModelConfig& config = transformer.config();
  LEXICO_RETURN_IF_ERROR(gatherer->scratch_.Reserve(transformer));
  const int64_t block = transformer.row_block();
  const std::pair<DeviceBuffer*, int64_t> buffers[] = {
      {&gatherer->hidden_, n_tokens_max * config.hidden_dim},
      {&gatherer->k_, n_tokens_max * config.kv_dim()},
      {&gatherer->v_, n_tokens_max * config.kv_dim()},
      {&gatherer->q_, block * config.q_dim()},
      {&gatherer->attention_, block * config.q_dim()},
      {&gatherer->positions_, n_tokens_max},
      {&gatherer->ids_, n_tokens_max},
  };
  for (const auto& [buffer, n] : buffers) {
    LEXICO_ASSIGN_OR_RETURN(*buffer, DeviceBuffer::Allocate(n * sizeof(float), stream));
  }
  return gatherer;
}

void Gatherer::RunLayer(int layer, std::span<const int32_t> positions) {
  const worker::ModelConfig& config = transformer_.config();
  const auto n_tokens = static_cast<int64_t>(positions.size());
  const int64_t block = transformer_.row_block();
  for (int64_t begin = 0; begin < n_tokens; begin += block) {
    const int64_t n = std::min(block, n_tokens - begin);
    float* const hidden = hidden_.as<float>() + begin * config.hidden_dim;
    transformer_.AttentionInputs(layer, hidden, n, positions_.as<int32_t>() + begin, q_.as<float>(),
                                 k_.as<float>() + begin * config.kv_dim(),
                                 v_.as<float>() + begin * config.kv_dim(), scratch_);
    if (layer + 1 == config.n_layers) continue;  // nothing comes after its keys and values
    const int64_t n_keys = begin + n;
    kernels::PrefillAttention(
        {.q = TensorView(q_.as<float>(), {n, config.n_heads, config.head_dim}),
         .k = TensorView(k_.as<float>(), {n_keys, config.n_kv_heads, config.head_dim}),
         .v = TensorView(v_.as<float>(), {n_keys, config.n_kv_heads, config.head_dim}),
         .first_position = begin,
         .scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim)),
         .allow_bf16 = config.dtype != "float32",
         .out = MutableTensorView(attention_.as<float>(), {n, config.n_heads, config.head_dim})},
        stream_);
    transformer_.AttentionOutputs(layer, TensorView(attention_.as<float>(), {n, config.q_dim()}),
                                  hidden, scratch_);
  }
}

void Gatherer::Run(std::span<const int32_t> ids, int64_t first_position, const Visit& visit) {
  const worker::ModelConfig& config = transformer_.config();
  LEXICO_CHECK_LE(first_position + static_cast<int64_t>(ids.size()), config.max_positions);
  std::vector<int32_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first_position));
  stream_.Upload(positions_.as<int32_t>(), positions.data(), positions.size() * sizeof(int32_t));
  stream_.Upload(ids_.as<int32_t>(), ids.data(), ids.size_bytes());
  transformer_.Embed({ids_.as<int32_t>(), ids.size()}, hidden_.as<float>());
  const int64_t n_rows = static_cast<int64_t>(ids.size()) * config.n_kv_heads;
  for (int layer = 0; layer < config.n_layers; ++layer) {
    RunLayer(layer, positions);
    visit(2 * layer, MutableTensorView(k_.as<float>(), {n_rows, config.head_dim}));
    visit(2 * layer + 1, MutableTensorView(v_.as<float>(), {n_rows, config.head_dim}));
  }
}

}  // namespace lexico::train_dictionary

// The forward pass once more, with attention written as the formula in double: the judge of the
// layers without any attention kernel.
#pragma once

#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "worker/model/transformer.h"

namespace lexico::tests {

// out[t, h] = sum_{u <= t} softmax_u(q[t, h] . k[u, h'] / sqrt(head_dim)) v[u, h'].
inline void PlainAttention(const worker::ModelConfig& config, int64_t n, const float* q,
                           const float* k, const float* v, float* out) {
  const int d = config.head_dim;
  for (int64_t t = 0; t < n; ++t) {
    for (int h = 0; h < config.n_heads; ++h) {
      const int kv_head = h / config.group_size();
      std::vector<double> weights(t + 1);
      for (int64_t u = 0; u <= t; ++u) {
        double dot = 0;
        for (int i = 0; i < d; ++i) {
          dot += static_cast<double>(q[(t * config.n_heads + h) * d + i]) *
                 k[(u * config.n_kv_heads + kv_head) * d + i];
        }
        weights[u] = dot / std::sqrt(d);
      }
      const double max = *std::max_element(weights.begin(), weights.end());
      double sum = 0;
      for (double& weight : weights) sum += weight = std::exp(weight - max);
      for (int i = 0; i < d; ++i) {
        double value = 0;
        for (int64_t u = 0; u <= t; ++u) {
          value += weights[u] * v[(u * config.n_kv_heads + kv_head) * d + i];
        }
        out[(t * config.n_heads + h) * d + i] = static_cast<float>(value / sum);
      }
    }
  }
}

// Logits [n_logits, vocab_size] of the last rows.
inline std::vector<float> PlainForward(const worker::Transformer& model,
                                       std::span<const int32_t> ids, int64_t n_logits) {
  const worker::ModelConfig& config = model.config();
  const auto n = static_cast<int64_t>(ids.size());
  worker::Transformer::Scratch scratch;
  std::vector<int32_t> positions(n);
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<float> hidden(n * config.hidden_dim);
  std::vector<float> q(n * config.q_dim()), k(n * config.kv_dim()), v(n * config.kv_dim());
  std::vector<float> attention(q.size());
  model.Embed(ids, hidden.data());
  for (int layer = 0; layer < config.n_layers; ++layer) {
    model.AttentionInputs(layer, hidden.data(), n, positions.data(), q.data(), k.data(), v.data(),
                          scratch);
    PlainAttention(config, n, q.data(), k.data(), v.data(), attention.data());
    model.AttentionOutputs(layer, kernels::TensorView(attention.data(), {n, config.q_dim()}),
                           hidden.data(), scratch);
  }
  std::vector<float> logits(n_logits * config.vocab_size);
  model.Logits(hidden.data() + (n - n_logits) * config.hidden_dim, n_logits, logits.data(),
               scratch);
  return logits;
}

}  // namespace lexico::tests

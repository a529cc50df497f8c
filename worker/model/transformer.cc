#include "worker/model/transformer.h"

#include <algorithm>

#include "kernels/api/elementwise.h"
#include "proto/base/check.h"

namespace lexico::worker {
namespace {

using kernels::MutableTensorView;
using kernels::TensorView;

// Working memory only ever grows.
float* Reserve(std::vector<float>& buffer, int64_t n) {
  if (buffer.size() < static_cast<size_t>(n)) buffer.resize(n);
  return buffer.data();
}

}  // namespace

void Transformer::Embed(std::span<const int32_t> ids, float* hidden) const {
  const auto n = static_cast<int64_t>(ids.size());
  kernels::Embed(embedding_, ids, MutableTensorView(hidden, {n, config_.hidden_dim}), stream_);
}

void Transformer::AttentionInputs(int layer, const float* hidden, int64_t n,
                                  const int32_t* positions, float* q, float* k, float* v,
                                  Scratch& scratch) const {
  LEXICO_CHECK_GE(layer, 0);
  LEXICO_CHECK_LT(layer, config_.n_layers);
  const Layer& weights = layers_[layer];
  const int64_t hidden_dim = config_.hidden_dim;
  const int64_t q_dim = config_.q_dim();
  const int64_t kv_dim = config_.kv_dim();
  const int64_t qkv_dim = q_dim + 2 * kv_dim;
  for (int64_t begin = 0; begin < n; begin += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, n - begin);
    float* x = Reserve(scratch.norm_, rows * hidden_dim);
    float* qkv = Reserve(scratch.wide_, rows * qkv_dim);
    kernels::RmsNorm(TensorView(hidden + begin * hidden_dim, {rows, hidden_dim}),
                     TensorView(weights.attention_norm.data(), {hidden_dim}),
                     config_.rms_norm_epsilon, MutableTensorView(x, {rows, hidden_dim}), stream_);
    kernels::MatMul(TensorView(x, {rows, hidden_dim}), *weights.qkv,
                    MutableTensorView(qkv, {rows, qkv_dim}), /*accumulate=*/false, stream_);
    const int head_dim = config_.head_dim;
    kernels::RotateAndSplit(
        {.qkv = TensorView(qkv, {rows, qkv_dim}),
         .bias = weights.qkv_bias.empty() ? nullptr : weights.qkv_bias.data(),
         .n_heads = config_.n_heads,
         .n_kv_heads = config_.n_kv_heads,
         .head_dim = head_dim,
         .positions = positions + begin,
         .inv_frequency = inv_frequency_.data(),
         .q = MutableTensorView(q + begin * q_dim, {rows, config_.n_heads, head_dim}),
         .k = MutableTensorView(k + begin * kv_dim, {rows, config_.n_kv_heads, head_dim}),
         .v = MutableTensorView(v + begin * kv_dim, {rows, config_.n_kv_heads, head_dim})},
        stream_);
  }
}

void Transformer::AttentionOutputs(int layer, const float* attention, int64_t n, float* hidden,
                                   Scratch& scratch) const {
  LEXICO_CHECK_GE(layer, 0);
  LEXICO_CHECK_LT(layer, config_.n_layers);
  const Layer& weights = layers_[layer];
  const int64_t hidden_dim = config_.hidden_dim;
  const int64_t ffn_dim = config_.ffn_dim;
  const int64_t q_dim = config_.q_dim();
  for (int64_t begin = 0; begin < n; begin += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, n - begin);
    const MutableTensorView h(hidden + begin * hidden_dim, {rows, hidden_dim});
    kernels::MatMul(TensorView(attention + begin * q_dim, {rows, q_dim}), *weights.output, h,
                    /*accumulate=*/true, stream_);

    const MutableTensorView x(Reserve(scratch.norm_, rows * hidden_dim), {rows, hidden_dim});
    const MutableTensorView gate_up(Reserve(scratch.wide_, rows * 2 * ffn_dim),
                                    {rows, 2 * ffn_dim});
    const MutableTensorView y(Reserve(scratch.narrow_, rows * ffn_dim), {rows, ffn_dim});
    kernels::RmsNorm(h, TensorView(weights.mlp_norm.data(), {hidden_dim}), config_.rms_norm_epsilon,
                     x, stream_);
    kernels::MatMul(x, *weights.gate_up, gate_up, /*accumulate=*/false, stream_);
    kernels::SwiGlu(gate_up, y, stream_);
    kernels::MatMul(y, *weights.down, h, /*accumulate=*/true, stream_);
  }
}

void Transformer::Logits(const float* hidden, int64_t n, float* logits, Scratch& scratch) const {
  const int64_t hidden_dim = config_.hidden_dim;
  const int64_t vocab_size = config_.vocab_size;
  for (int64_t begin = 0; begin < n; begin += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, n - begin);
    const MutableTensorView x(Reserve(scratch.norm_, rows * hidden_dim), {rows, hidden_dim});
    kernels::RmsNorm(TensorView(hidden + begin * hidden_dim, {rows, hidden_dim}),
                     TensorView(final_norm_.data(), {hidden_dim}), config_.rms_norm_epsilon, x,
                     stream_);
    kernels::MatMul(x, *lm_head_,
                    MutableTensorView(logits + begin * vocab_size, {rows, vocab_size}),
                    /*accumulate=*/false, stream_);
  }
}

}  // namespace lexico::worker

#include "worker/model/transformer.h"

#include <algorithm>

#include "kernels/api/elementwise.h"
#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::worker {
namespace {

using kernels::DType;
using kernels::MutableTensorView;
using kernels::TensorView;

}  // namespace

absl::Status Transformer::Scratch::Reserve(const Transformer& transformer) {
  const ModelConfig& config = transformer.local_config();
  const int64_t rows = transformer.row_block();
  const int64_t wide = std::max<int64_t>(config.q_dim() + 2 * config.kv_dim(), 2 * config.ffn_dim);
  const kernels::Stream& stream = transformer.stream_;
  LEXICO_RETURN_IF_ERROR(norm_.Reserve(rows * config.hidden_dim * sizeof(float), stream));
  const int64_t head =
      transformer.n_ranks() == 1
          ? 0
          : kSplitHeadRows * kernels::PartOfRank(config.vocab_size, 0, transformer.n_ranks()).count;
  LEXICO_RETURN_IF_ERROR(wide_.Reserve(std::max(rows * wide, head) * sizeof(float), stream));
  return narrow_.Reserve(rows * config.ffn_dim * sizeof(float), stream);
}

// n elements of `dtype`; the buffers are measured in F32, which no type exceeds.
static MutableTensorView Rows(kernels::GrowingBuffer& buffer, DType dtype, int64_t n_rows,
                              int64_t width, const kernels::Stream& stream) {
  return {buffer.Get<float>(n_rows * width, stream), dtype, {n_rows, width}};
}

void Transformer::Embed(std::span<const int32_t> ids, float* hidden) const {
  const auto n = static_cast<int64_t>(ids.size());
  kernels::Embed(embedding_, ids, MutableTensorView(hidden, {n, config_.hidden_dim}), stream_);
}

void Transformer::AttentionInputs(int layer, const float* hidden, int64_t n,
                                  const int32_t* positions, float* q, float* k, float* v,
                                  Scratch& scratch, const kernels::StoreRowsArgs* rows) const {
  LEXICO_CHECK_GE(layer, 0);
  LEXICO_CHECK_LT(layer, config_.n_layers);
  const Layer& weights = layers_[layer];
  const ModelConfig& local = shard_.config;
  const int64_t hidden_dim = config_.hidden_dim;
  const int64_t q_dim = local.q_dim();
  const int64_t kv_dim = local.kv_dim();
  const int64_t qkv_dim = q_dim + 2 * kv_dim;
  const int head_dim = config_.head_dim;
  for (int64_t begin = 0; begin < n; begin += row_block()) {
    const int64_t n_rows = std::min(row_block(), n - begin);
    const MutableTensorView x =
        Rows(scratch.norm_, weights.qkv->input_type(), n_rows, hidden_dim, stream_);
    const MutableTensorView qkv = Rows(scratch.wide_, DType::kF32, n_rows, qkv_dim, stream_);
    kernels::RmsNorm(TensorView(hidden + begin * hidden_dim, {n_rows, hidden_dim}),
                     TensorView(weights.attention_norm.as<const float>(), {hidden_dim}),
                     config_.rms_norm_epsilon, x, stream_);
    kernels::MatMul(x, *weights.qkv, qkv, /*accumulate=*/false, stream_);
    const kernels::RopeArgs rope = {
        .qkv = qkv,
        .bias = weights.qkv_bias.as<const float>(),
        .n_heads = local.n_heads,
        .n_kv_heads = local.n_kv_heads,
        .head_dim = head_dim,
        .positions = positions + begin,
        .inv_frequency = inv_frequency_.as<const double>(),
        .q = MutableTensorView(q + begin * q_dim, {n_rows, local.n_heads, head_dim}),
        .k = MutableTensorView(k + begin * kv_dim, {n_rows, local.n_kv_heads, head_dim}),
        .v = MutableTensorView(v + begin * kv_dim, {n_rows, local.n_kv_heads, head_dim})};
    if (rows == nullptr) {
      kernels::RotateAndSplit(rope, stream_);
      continue;
    }
    kernels::StoreRowsArgs stored = *rows;
    stored.k = TensorView(rope.k.data, DType::kF32, {n_rows, kv_dim});
    stored.v = TensorView(rope.v.data, DType::kF32, {n_rows, kv_dim});
    stored.k_rows += begin;
    stored.v_rows += begin;
    stored.non_finite += begin;
    kernels::RotateAndStore(rope, stored, stream_);
  }
}

// The sum of a split product takes hidden in from one rank: it is the same on all.
void Transformer::AddProduct(TensorView x, const kernels::PreparedMatrix& w,
                             MutableTensorView hidden) const {
  kernels::MatMul(x, w, hidden, /*accumulate=*/rank() == 0, stream_);
  if (communicator_ == nullptr) return;
  communicator_->AllReduceSum(hidden.as_mutable<float>(), hidden.size(), stream_);
}

void Transformer::AttentionOutputs(int layer, TensorView attention, float* hidden,
                                   Scratch& scratch) const {
  LEXICO_CHECK_GE(layer, 0);
  LEXICO_CHECK_LT(layer, config_.n_layers);
  LEXICO_CHECK_EQ(attention.dim(1), shard_.config.q_dim());
  const Layer& weights = layers_[layer];
  const ModelConfig& local = shard_.config;
  const int64_t hidden_dim = config_.hidden_dim;
  const int64_t ffn_dim = local.ffn_dim;
  const int64_t n = attention.dim(0);
  const size_t row_bytes = local.q_dim() * kernels::DTypeBytes(attention.dtype);
  for (int64_t begin = 0; begin < n; begin += row_block()) {
    const int64_t rows = std::min(row_block(), n - begin);
    const MutableTensorView h(hidden + begin * hidden_dim, {rows, hidden_dim});
    const TensorView input(static_cast<const char*>(attention.data) + begin * row_bytes,
                           attention.dtype, {rows, local.q_dim()});
    AddProduct(input, *weights.output, h);

    const MutableTensorView x =
        Rows(scratch.norm_, weights.gate_up->input_type(), rows, hidden_dim, stream_);
    const MutableTensorView gate_up = Rows(scratch.wide_, DType::kF32, rows, 2 * ffn_dim, stream_);
    const MutableTensorView y =
        Rows(scratch.narrow_, weights.down->input_type(), rows, ffn_dim, stream_);
    kernels::RmsNorm(h, TensorView(weights.mlp_norm.as<const float>(), {hidden_dim}),
                     config_.rms_norm_epsilon, x, stream_);
    kernels::MatMul(x, *weights.gate_up, gate_up, /*accumulate=*/false, stream_);
    kernels::SwiGlu(gate_up, y, stream_);
    AddProduct(y, *weights.down, h);
  }
}

void Transformer::Logits(const float* hidden, int64_t n, float* logits, Scratch& scratch) const {
  const int64_t hidden_dim = config_.hidden_dim;
  const int64_t vocab_size = config_.vocab_size;
  const bool split = communicator_ != nullptr;
  const int64_t block = split ? std::min(row_block(), kSplitHeadRows) : row_block();
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t rows = std::min(block, n - begin);
    const MutableTensorView x =
        Rows(scratch.norm_, lm_head_->input_type(), rows, hidden_dim, stream_);
    kernels::RmsNorm(TensorView(hidden + begin * hidden_dim, {rows, hidden_dim}),
                     TensorView(final_norm_.as<const float>(), {hidden_dim}),
                     config_.rms_norm_epsilon, x, stream_);
    float* const out = logits + begin * vocab_size;
    float* const part =
        split ? scratch.wide_.Get<float>(rows * kernels::PartOfRank(vocab_size, 0, n_ranks()).count,
                                         stream_)
              : out;
    kernels::MatMul(x, *lm_head_, MutableTensorView(part, {rows, lm_head_->n_out()}),
                    /*accumulate=*/false, stream_);
    if (split) communicator_->AllGatherColumns(part, rows, vocab_size, out, stream_);
  }
}

}  // namespace lexico::worker

#include "tools/eval/fidelity/rows_decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/api/rows.h"
#include "proto/base/check.h"
#include "worker/model/exact_decoder.h"

namespace lexico::eval {

using kernels::TensorView;

RowsDecoder::RowsDecoder(const worker::Transformer& transformer, const kernels::Stream& stream,
                         kernels::DType cache_type, std::vector<LayerRows> rows, int64_t position)
    : transformer_(transformer),
      stream_(stream),
      cache_type_(cache_type),
      rows_(std::move(rows)),
      queries_(transformer.config().n_layers),
      position_(position) {
  if (rows_.empty()) rows_.resize(transformer.config().n_layers);
  LEXICO_CHECK_EQ(static_cast<int>(rows_.size()), transformer.config().n_layers);
}

absl::StatusOr<std::vector<float>> RowsDecoder::Append(std::span<const int32_t> ids,
                                                       int64_t n_logits) {
  const worker::ModelConfig& config = transformer_.config();
  const auto n = static_cast<int64_t>(ids.size());
  LEXICO_CHECK_LE(n_logits, n);
  std::vector<int32_t> positions(n);
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(position_));
  std::vector<float> hidden(n * config.hidden_dim);
  std::vector<float> q(n * config.q_dim());
  std::vector<float> attention(n * config.q_dim());
  const int64_t n_before = static_cast<int64_t>(rows_[0].k.size()) / config.kv_dim();
  const int64_t n_keys = n_before + n;
  transformer_.Embed(ids, hidden.data());
  for (int layer = 0; layer < config.n_layers; ++layer) {
    LayerRows& rows = rows_[layer];
    const int64_t offset = n_before * config.kv_dim();
    LEXICO_CHECK_EQ(static_cast<int64_t>(rows.k.size()), offset);
    rows.k.resize(n_keys * config.kv_dim());
    rows.v.resize(n_keys * config.kv_dim());
    transformer_.AttentionInputs(layer, hidden.data(), n, positions.data(), q.data(),
                                 rows.k.data() + offset, rows.v.data() + offset, scratch_);
    int32_t non_finite = 0;
    for (std::vector<float>* kind : {&rows.k, &rows.v}) {
      kernels::RoundToType({kind->data() + offset, {n, config.kv_dim()}}, cache_type_, &non_finite,
                           stream_);
    }
    if (non_finite != 0) {
      return absl::InternalError(
          fmt::format("layer {}: a key or value at positions {} .. {} is not finite", layer,
                      position_, position_ + n - 1));
    }
    worker::AttendToRows(config, q, rows.k, rows.v, attention, stream_);
    transformer_.AttentionOutputs(layer, TensorView(attention.data(), {n, config.q_dim()}),
                                  hidden.data(), scratch_);
    queries_[layer].assign(q.end() - std::min(n, n_queries_) * config.q_dim(), q.end());
  }
  position_ += n;
  std::vector<float> logits(n_logits * config.vocab_size);
  if (n_logits > 0) {
    transformer_.Logits(hidden.data() + (n - n_logits) * config.hidden_dim, n_logits, logits.data(),
                        scratch_);
  }
  return logits;
}

std::span<const float> RowsDecoder::NewestQueries(int layer, int64_t n) const {
  const std::span<const float> all = queries_[layer];
  return all.last(std::min<size_t>(all.size(), n * transformer_.config().q_dim()));
}

}  // namespace lexico::eval

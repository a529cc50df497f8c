#include "worker/engine/decode_step.h"

#include <algorithm>

#include "kernels/api/merge_partials.h"
#include "proto/base/check.h"

namespace lexico::worker {

void DecodeStep::Run(std::span<SessionKv* const> sessions) {
  const auto n = static_cast<int64_t>(sessions.size());
  if (n == 0) return;
  const ModelConfig& config = context_->config();
  ids_.resize(n);
  positions_.resize(n);
  non_finite_.assign(n, std::nullopt);
  for (int64_t i = 0; i < n; ++i) {
    LEXICO_CHECK(!sessions[i]->pending().empty());
    ids_[i] = sessions[i]->pending()[0];
    positions_[i] = static_cast<int32_t>(sessions[i]->n_tokens());
  }
  hidden_.resize(n * config.hidden_dim);
  q_.resize(n * config.q_dim());
  k_.resize(n * config.kv_dim());
  v_.resize(n * config.kv_dim());
  attention_.resize(n * config.q_dim());
  for (int part = 0; part < 2; ++part) {
    partial_[part].resize(n * config.q_dim());
    partial_max_[part].resize(n * config.n_heads);
    partial_sum_[part].resize(n * config.n_heads);
  }
  attention_time_ = absl::ZeroDuration();
  context_->transformer->Embed(ids_, hidden_.data());
  for (int layer = 0; layer < config.n_layers; ++layer) RunLayer(layer, sessions);
  logits_.resize(n * config.vocab_size);
  context_->transformer->Logits(hidden_.data(), n, logits_.data(), context_->transformer_scratch);
  for (int64_t i = 0; i < n; ++i) {
    if (!non_finite_[i]) sessions[i]->CommitRow();
  }
}

void DecodeStep::RunLayer(int layer, std::span<SessionKv* const> sessions) {
  const auto n = static_cast<int64_t>(sessions.size());
  const ModelConfig& config = context_->config();
  context_->transformer->AttentionInputs(layer, hidden_.data(), n, positions_.data(), q_.data(),
                                         k_.data(), v_.data(), context_->transformer_scratch);
  for (int64_t i = 0; i < n; ++i) {
    const std::optional<KvKind> bad = sessions[i]->WriteRow(layer, k_.data() + i * config.kv_dim(),
                                                            v_.data() + i * config.kv_dim());
    if (bad.has_value() && !non_finite_[i].has_value()) non_finite_[i] = bad;
  }
  const absl::Time attention_begin = context_->clock->Now();
  // Neighbours of one layout share a call.
  for (int64_t first = 0; first < n;) {
    int64_t end = first + 1;
    while (end < n && sessions[end]->layout() == sessions[first]->layout()) ++end;
    Attend(layer, sessions.subspan(first, end - first), first);
    first = end;
  }
  attention_time_ += context_->clock->Now() - attention_begin;
  context_->transformer->AttentionOutputs(layer, attention_.data(), n, hidden_.data(),
                                          context_->transformer_scratch);
}

void DecodeStep::Attend(int layer, std::span<SessionKv* const> sessions, int64_t first) {
  const ModelConfig& config = context_->config();
  const auto n = static_cast<int64_t>(sessions.size());
  const float* q = q_.data() + first * config.q_dim();
  const auto part = [&](int i) {
    return PartialRows(context_->shape, config.n_heads, first, n, partial_[i].data(),
                       partial_max_[i].data(), partial_sum_[i].data());
  };
  const kernels::MutableTensorView out(attention_.data() + first * config.q_dim(),
                                       {n, config.n_heads, config.head_dim});
  const KvLayout& layout = sessions[0]->layout();
  const bool dense = layout.profile.is_dense();
  rows_.clear();
  int64_t rows_max = 0;
  for (const SessionKv* session : sessions) {
    // The row just written is the last one.
    rows_.push_back(session->window(layer, session->window_rows() + 1));
    rows_max = std::max(rows_max, rows_.back().n_tokens);
  }
  // Dense pages and the window are one call.
  if (dense) page_scratch_.Collect(sessions);
  const PartialViews rows = part(0);
  kernels::DenseAttention({.q = {q, {n, config.n_heads, config.head_dim}},
                           .rows = rows_.data(),
                           .rows_max = rows_max,
                           .pages = dense ? page_scratch_.blocks.data() : nullptr,
                           .page_begin = dense ? page_scratch_.begin.data() : nullptr,
                           .page_offset = static_cast<int64_t>(layout.page_offset(layer)),
                           .layout = layout.page,
                           .n_kv_heads = config.n_kv_heads,
                           .kv_type = context_->shape.cache_type,
                           .scale = context_->attention_scale(),
                           .out = rows.out,
                           .max_score = rows.max_score,
                           .sum_exp = rows.sum_exp},
                          context_->stream);
  const PartialViews codes = part(1);
  if (!dense) AttendToPages(*context_, layer, sessions, q, codes, page_scratch_);
  const kernels::AttentionPart parts[] = {{rows.out, rows.max_score, rows.sum_exp},
                                          {codes.out, codes.max_score, codes.sum_exp}};
  kernels::MergePartials(std::span(parts).first(dense ? 1 : 2), out, context_->stream);
}

std::span<const float> DecodeStep::logits(int64_t i) const {
  const int64_t n_vocab = context_->config().vocab_size;
  return std::span(logits_).subspan(i * n_vocab, n_vocab);
}

}  // namespace lexico::worker

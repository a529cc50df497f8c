#include "worker/engine/decode_step.h"

#include <numeric>

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
  piece_begin_.resize(n + 1);
  std::iota(piece_begin_.begin(), piece_begin_.end(), 0);

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
  const auto part = [&](int which, int64_t first, int64_t count) {
    return PartialRows(context_->shape, config.n_heads, first, count, partial_[which].data(),
                       partial_max_[which].data(), partial_sum_[which].data());
  };
  const absl::Time attention_begin = context_->clock->Now();
  // Neighbours of one layout share a call.
  for (int64_t first = 0; first < n;) {
    int64_t end = first + 1;
    while (end < n && sessions[end]->layout() == sessions[first]->layout()) ++end;
    AttendToPages(*context_, layer, sessions.subspan(first, end - first),
                  q_.data() + first * config.q_dim(), part(0, first, end - first), page_scratch_);
    first = end;
  }
  AttendToWindows(layer, sessions, part(1, 0, n));
  const PartialViews pages = part(0, 0, n);
  const PartialViews windows = part(1, 0, n);
  const kernels::AttentionPart parts[] = {{pages.out, pages.max_score, pages.sum_exp},
                                          {windows.out, windows.max_score, windows.sum_exp}};
  kernels::MergePartials(parts, {attention_.data(), {n, config.n_heads, config.head_dim}},
                         context_->stream);
  attention_time_ += context_->clock->Now() - attention_begin;
  context_->transformer->AttentionOutputs(layer, attention_.data(), n, hidden_.data(),
                                          context_->transformer_scratch);
}

void DecodeStep::AttendToWindows(int layer, std::span<SessionKv* const> sessions,
                                 const PartialViews& out) {
  pieces_.clear();
  // The row just written is the last one.
  for (const SessionKv* session : sessions) {
    pieces_.push_back(session->window(layer, session->window_rows() + 1));
  }
  const auto n = static_cast<int64_t>(sessions.size());
  const ModelConfig& config = context_->config();
  kernels::DenseAttention({.q = {q_.data(), {n, config.n_heads, config.head_dim}},
                           .pieces = pieces_.data(),
                           .piece_begin = piece_begin_.data(),
                           .n_kv_heads = config.n_kv_heads,
                           .kv_type = context_->shape.cache_type,
                           .scale = context_->attention_scale(),
                           .out = out.out,
                           .max_score = out.max_score,
                           .sum_exp = out.sum_exp},
                          context_->stream);
}

std::span<const float> DecodeStep::logits(int64_t i) const {
  const int64_t n_vocab = context_->config().vocab_size;
  return std::span(logits_).subspan(i * n_vocab, n_vocab);
}

}  // namespace lexico::worker

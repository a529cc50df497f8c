// One decode step: the next pending token of every sequence of a batch through all layers.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "worker/engine/forward_context.h"
#include "worker/engine/page_attention.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

// Keeps its working memory between steps. Thread-compatible: the engine's thread.
class DecodeStep {
 public:
  explicit DecodeStep(ForwardContext* context) : context_(context) {}

  // Computes the first pending token of each session, writes its row and commits it. Sessions are
  // independent: a result depends on the batch only as far as a matrix product's summation order
  // depends on its number of rows.
  // REQUIRES: every session is there once, has a pending token and ReserveRow was OK.
  void Run(std::span<SessionKv* const> sessions);

  // Of session i of the last Run: what was not finite, if anything; the session is then unchanged.
  std::optional<KvKind> non_finite(int64_t i) const { return non_finite_[i]; }
  std::span<const float> logits(int64_t i) const;
  // Of the last Run, all sessions together.
  absl::Duration attention_time() const { return attention_time_; }

 private:
  void RunLayer(int layer, std::span<SessionKv* const> sessions);
  // Sessions of one layout, the first of them sequence `first` of the step.
  void Attend(int layer, std::span<SessionKv* const> sessions, int64_t first);

  ForwardContext* const context_;
  absl::Duration attention_time_;
  std::vector<int32_t> ids_;                       // [n]
  std::vector<int32_t> positions_;                 // [n]
  std::vector<std::optional<KvKind>> non_finite_;  // [n]
  std::vector<float> hidden_;                      // [n, hidden_dim]
  std::vector<float> q_;                           // [n, n_heads, head_dim]
  std::vector<float> k_;                           // [n, n_kv_heads, head_dim]
  std::vector<float> v_;
  std::vector<float> attention_;   // [n, n_heads, head_dim]
  std::vector<float> logits_;      // [n, vocab_size]
  std::vector<float> partial_[2];  // over windows, over codes: [n, n_heads, head_dim]
  std::vector<float> partial_max_[2];
  std::vector<float> partial_sum_[2];
  std::vector<kernels::DenseRows> rows_;  // windows of the sessions of one layout
  PageAttentionScratch page_scratch_;
};

}  // namespace lexico::worker

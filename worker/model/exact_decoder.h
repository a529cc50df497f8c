// A model with a dense, exact F32 cache for one sequence: the plainest use of Transformer. It is
// what golden tests compare with transformers, and what evaluation tools compare the coded cache
// with. Of a split model every rank has one, and all append the same together. Serving is the
// engine's job: this one knows no sessions, pages or batches.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/transformer.h"

namespace lexico::worker {

// Thread-compatible. `transformer` must outlive it.
// Exact causal attention of the newest n rows over all of them, in F32: q and attention [n,
// n_heads, head_dim], k and v [n_keys, n_kv_heads, head_dim], n_keys >= n.
void AttendToRows(const ModelConfig& config, std::span<const float> q, std::span<const float> k,
                  std::span<const float> v, std::span<float> attention,
                  const kernels::Stream& stream);

class ExactDecoder {
 public:
  ExactDecoder(const Transformer& transformer, const kernels::Stream& stream);

  // Appends `ids` and returns the logits of the last `n_logits` of them, [n_logits, vocab_size].
  // InvalidArgument when ids is empty, an id is outside the vocabulary, the sequence would pass
  // max_positions, or n_logits is not within 1 .. ids.size(); the sequence is then unchanged.
  absl::StatusOr<std::vector<float>> Append(std::span<const int32_t> ids, int64_t n_logits = 1);

  int64_t n_tokens() const { return n_tokens_; }

 private:
  struct LayerCache {
    std::vector<float> k;  // [n_tokens, n_kv_heads, head_dim], after RoPE
    std::vector<float> v;
  };

  const Transformer& transformer_;
  kernels::Stream stream_;
  Transformer::Scratch scratch_;
  std::vector<LayerCache> layers_;
  int64_t n_tokens_ = 0;
};

}  // namespace lexico::worker

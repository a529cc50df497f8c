// A model over rows of keys and values that the caller gives and takes: exact ones of a context, or
// what a method makes of them. Many tokens go through a layer together, with dense attention.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "tools/eval/rivals/rival.h"
#include "worker/model/transformer.h"

namespace lexico::eval {

// Thread-compatible. `transformer` must outlive it; the stream is a CPU's.
class RowsDecoder {
 public:
  // Begins with `rows` [n_layers], equally many in all layers, in front of a token at `position`;
  // where tokens are left out, fewer than `position`. New rows are rounded to `cache_type` before
  // any use, as a cache keeps them.
  RowsDecoder(const worker::Transformer& transformer, const kernels::Stream& stream,
              kernels::DType cache_type, std::vector<LayerRows> rows = {}, int64_t position = 0);

  // Logits of the last n_logits of `ids`, [n_logits, vocab_size]. Internal where a key or value is
  // not finite. REQUIRES: ids are in the vocabulary, positions below max_positions.
  absl::StatusOr<std::vector<float>> Append(std::span<const int32_t> ids, int64_t n_logits);

  const std::vector<LayerRows>& rows() const { return rows_; }
  // Queries of the newest tokens of the last Append, at most n: [., n_heads, head_dim].
  std::span<const float> NewestQueries(int layer, int64_t n) const;
  // How many queries of an Append are kept.
  void KeepQueries(int64_t n) { n_queries_ = n; }

 private:
  const worker::Transformer& transformer_;
  const kernels::Stream stream_;
  const kernels::DType cache_type_;
  worker::Transformer::Scratch scratch_;
  std::vector<LayerRows> rows_;              // [n_layers]
  std::vector<std::vector<float>> queries_;  // [n_layers], each [., n_heads, head_dim]
  int64_t n_queries_ = 0;
  int64_t position_;
};

}  // namespace lexico::eval

// Exact keys and values of a window of text, layer by layer, as a prompt's prefill computes them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/stream.h"
#include "worker/model/transformer.h"

namespace lexico::train_dictionary {

// Thread-compatible. `transformer` must outlive it.
class Gatherer {
 public:
  // Room for windows of n_tokens_max. ResourceExhausted where a device has not that much left.
  static absl::StatusOr<std::unique_ptr<Gatherer>> Create(const worker::Transformer& transformer,
                                                          int64_t n_tokens_max,
                                                          const kernels::Stream& stream);

  // Called with each layer's K and then its V [n_tokens * n_kv_heads, head_dim] F32 in the stream's
  // memory, K after RoPE, which it may write over; number of dictionaries as in vector_set.h.
  using Visit = std::function<void(int dictionary, kernels::MutableTensorView rows)>;

  // Token i stands at position first_position + i and attends to tokens 0 .. i of the window:
  // attention with RoPE depends on distances only, so a short window shows keys as they are at any
  // position. Keys and values of one layer are held at a time. REQUIRES: ids within the
  // vocabulary, positions below max_positions
  void Run(std::span<const int32_t> ids, int64_t first_position, const Visit& visit);

 private:
  Gatherer(const worker::Transformer& transformer, const kernels::Stream& stream)
      : transformer_(transformer), stream_(stream) {}
  void RunLayer(int layer, std::span<const int32_t> positions);

  const worker::Transformer& transformer_;
  kernels::Stream stream_;
  worker::Transformer::Scratch scratch_;
  kernels::DeviceBuffer hidden_;  // [n_tokens_max, hidden_dim]
  kernels::DeviceBuffer k_;       // [n_tokens_max, n_kv_heads, head_dim]
  kernels::DeviceBuffer v_;
  kernels::DeviceBuffer q_;          // [row_block, n_heads, head_dim]
  kernels::DeviceBuffer attention_;  // [row_block, n_heads, head_dim]
  kernels::DeviceBuffer positions_;  // [n_tokens_max] I32
  kernels::DeviceBuffer ids_;        // [n_tokens_max] I32
};

}  // namespace lexico::train_dictionary

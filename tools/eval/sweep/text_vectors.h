// Keys and values of a text, as a prompt's prefill computes them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "worker/model/transformer.h"

namespace lexico::eval {

struct TextVectorsOptions {
  int64_t n_tokens = 4096;   // of a run of the text, read from position 0
  int n_documents = 2;       // runs, at even distances
  int64_t n_vectors = 4096;  // kept of each layer's keys, and values: at even distances
};

// [2 * n_layers][n, head_dim], n at most n_vectors: of layer l the keys after RoPE at 2 l, the
// values at 2 l + 1. InvalidArgument, with both values, for a text too short, more tokens than the
// model's positions, and vectors that are not finite.
absl::StatusOr<std::vector<std::vector<float>>> TextVectors(const TextVectorsOptions& options,
                                                            const worker::Transformer& model,
                                                            std::span<const int32_t> ids,
                                                            const kernels::Stream& stream);

}  // namespace lexico::eval

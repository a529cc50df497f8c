// What the forward passes of an engine share: the model, its dictionaries and working memory that
// is reused from step to step. Owned by the engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "kernels/api/stream.h"
#include "proto/base/clock.h"
#include "worker/kv/kv_layout.h"
#include "worker/kv/page_coder.h"
#include "worker/model/transformer.h"

namespace lexico::worker {

struct ForwardContext {
  std::shared_ptr<const Transformer> transformer;
  std::vector<LayerDictionaries> dictionaries;  // [n_layers], or empty: `dense` only
  KvShape shape;
  kernels::Stream stream;
  base::Clock* clock;  // times batches of coding; no result depends on it

  Transformer::Scratch transformer_scratch;
  CoderScratch coder_scratch;

  const LayerDictionaries& dictionaries_of(int layer) const {
    static const auto& none = *new LayerDictionaries();
    return dictionaries.empty() ? none : dictionaries[layer];
  }
  const ModelConfig& config() const { return transformer->config(); }
  float attention_scale() const;
};

// Rounds `n` values in place to `type`, as they will be kept; false when one is then not finite.
// `scratch` holds the values in between.
bool RoundToCacheType(kernels::DType type, int64_t n, float* values, const kernels::Stream& stream,
                      std::vector<uint16_t>& scratch);

}  // namespace lexico::worker

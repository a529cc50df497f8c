// What the forward passes of an engine share on one rank: its share of the model, the dictionaries
// and working memory that is reused from step to step. Used by the rank's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "kernels/api/stream.h"
#include "proto/base/clock.h"
#include "worker/engine/step_arrays.h"
#include "worker/engine/work_arena.h"
#include "worker/kv/ahead_coder.h"
#include "worker/kv/kv_layout.h"
#include "worker/kv/page_coder.h"
#include "worker/model/transformer.h"

namespace lexico::worker {

struct ForwardContext {
  std::shared_ptr<const Transformer> transformer;
  std::vector<LayerDictionaries> dictionaries;  // [n_layers], or empty: `dense` only
  KvShape shape;
  kernels::Stream stream;
  int rank = 0;
  base::Clock* clock;  // times batches of coding; no result depends on it
  // Whether decode steps may be recorded (step_graphs.h). No result depends on it.
  bool records_steps = false;

  // Of prefills. Set before the first one.
  std::unique_ptr<WorkArena> arena;
  // Page tables of short prompts, which attend to codes directly.
  StepArrays direct_arrays = StepArrays(stream);
  Transformer::Scratch transformer_scratch;
  CoderScratch coder_scratch;

  // Of windows, beside the codes of the same step: few tokens, which leave most of a GPU idle. They
  // are one chunk a sequence, which needs no workspace (kernels/cuda/dense_attention_plan.h).
  kernels::Stream window_stream = stream;

  // Of the pages that steps code, which on a device happens beside them.
  kernels::Stream beside = stream;
  CoderScratch beside_scratch;
  CoderOfRank ahead_coder() {
    return {.dictionaries = dictionaries,
            .stream = &stream,
            .beside = on_device() ? &beside : &stream,
            .scratch = on_device() ? &beside_scratch : &coder_scratch};
  }

  // Of prefills, which on a device code their rows beside what they compute (prefill_coder.h).
  kernels::Stream coding = stream;
  CoderScratch coding_scratch;

  const LayerDictionaries& dictionaries_of(int layer) const {
    static const auto& none = *new LayerDictionaries();
    return dictionaries.empty() ? none : dictionaries[layer];
  }
  // With the heads and the MLP of the rank.
  const ModelConfig& config() const { return transformer->local_config(); }
  float attention_scale() const;
  bool on_device() const { return stream.kind() != kernels::DeviceKind::kCpu; }
  // What a prefill keeps a layer's exact keys and values in: values of the cache type, as F32 on a
  // CPU, whose kernels read that; on a device as they are.
  kernels::DType rows_type() const { return on_device() ? shape.cache_type : kernels::DType::kF32; }
  // Pages that are coded or rebuilt in one call at most.
  int64_t batch_pages_max() const { return on_device() ? 128 : 1024; }
};

}  // namespace lexico::worker

// Codes the exact rows of a prefill into the reserved pages of its session, on one rank.
//
// On a device beside what comes next: on a stream, a workspace and scratch of its own
// (forward_context.h), while the layer's other rows and the next layer are computed. A layer's rows
// lie where the last layer's were, so whoever writes rows again lets his stream wait for the coding
// of what was there (HoldBack); nothing else waits for it before Finish. On a CPU a call has coded
// when it returns.
//
// Thread-compatible: the rank's thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/api/event.h"
#include "kernels/api/tensor.h"
#include "worker/engine/forward_context.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

class PrefillCoder {
 public:
  // In the stream's memory.
  struct Arrays {
    uint8_t** pages;        // [n_pages]
    int64_t* n_non_finite;  // [n_layers, 2]: keys, values
    float* page_errors;     // [n_layers, 2, n_pages]
  };

  // For the reserved pages of `kv`; `context` and the arrays outlive it.
  PrefillCoder(ForwardContext* context, const SessionKv& kv, const Arrays& arrays);
  // Waits for the coding under way: the arrays, rows and pages may be given back.
  ~PrefillCoder();
  PrefillCoder(const PrefillCoder&) = delete;
  PrefillCoder& operator=(const PrefillCoder&) = delete;

  // Prepares dictionaries for coding many pages of the layer; held until EndLayer.
  void BeginLayer(const SessionKv& kv, int layer);
  // Pages [first_page, first_page + n_pages) from their rows k and v [n_pages * page_tokens,
  // n_kv_heads, head_dim], values of the cache type, as the context's stream has them after the ops
  // enqueued so far. On a device first_page is a multiple of batch_pages_max, which n_pages does
  // not exceed. REQUIRES: BeginLayer.
  void Code(const SessionKv& kv, int layer, int64_t first_page, int64_t n_pages,
            kernels::TensorView k, kernels::TensorView v);
  void EndLayer() { dictionaries_ = {}; }

  // Ops of the context's stream from here on may write the rows of pages [first_page, end_page)
  // for the next layer.
  void HoldBack(int64_t first_page, int64_t end_page) const;

  // Of all layers: waits, then errors [n_layers, n_pages] of this rank's heads. Internal when a
  // vector is not finite, with the layer and how many.
  absl::Status Finish(const SessionKv& kv, std::span<PageError> errors);

 private:
  ForwardContext* const context_;
  const Arrays arrays_;
  const int64_t n_pages_;
  LayerDictionaries dictionaries_;
  kernels::Event rows_written_;
  std::vector<kernels::Event> coded_;  // of every batch of pages; none on a CPU
};

}  // namespace lexico::worker

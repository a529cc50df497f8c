// One decode step: the next pending token of every sequence of a batch through all layers, on all
// ranks of the model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/api/top_logits.h"
#include "worker/engine/decode_rank.h"
#include "worker/engine/forward_ranks.h"
#include "worker/kv/session_kv.h"
#include "worker/model/sampler.h"

namespace lexico::worker {

// Thread-compatible: the engine's thread.
class DecodeStep {
 public:
  // `ranks` must outlive it.
  explicit DecodeStep(ForwardRanks* ranks);

  // Takes the memory of devices for steps of n sessions with n_pages pages together. A CPU's grows
  // by itself.
  absl::Status Reserve(int64_t n, int64_t n_pages);

  // Computes the first pending token of each session, writes its row and commits it. Sessions are
  // independent: a result depends on the batch only as far as a matrix product's summation order
  // depends on its number of rows.
  // On a device it also finds the n_top best logits of every session, and what `draws`
  // (kernels/api/top_logits.h) hits.
  // REQUIRES: every session is there once, has a pending token and ReserveRow was OK; a draw for
  // each.
  void Run(std::span<SessionKv* const> sessions, std::span<const kernels::RowDraw> draws,
           int n_top);

  // Of session i of the last Run: what was not finite, if anything; the session is then unchanged.
  std::optional<KvKind> non_finite(int64_t i) const;
  // Fetches them from a device; valid until the next call or Run.
  std::span<const float> logits(int64_t i) const { return steps_[0]->logits(i); }
  // REQUIRES: the streams are of devices.
  TopRow top(int64_t i) const { return steps_[0]->top(i); }
  // How the last Run was enqueued; the ranks agree.
  StepLaunch launch() const { return steps_[0]->launch(); }
  // Of the last Run, all sessions together; on a device 0, because ops are only enqueued.
  absl::Duration attention_time() const { return steps_[0]->attention_time(); }

 private:
  ForwardRanks* const ranks_;
  std::vector<std::unique_ptr<DecodeRank>> steps_;  // [n_ranks]
};

}  // namespace lexico::worker

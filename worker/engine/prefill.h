// One prefill in slices: all tokens through layer l, exactly, before layer l + 1.
//
// For each layer:
//   history   the session's past becomes F32 rows in front of the new ones: sealed pages are
//             reconstructed, the window is converted
//   rows      block by block of row_block() new tokens: K and V (rounded to the cache type before
//             any use), causal attention over the history and the new rows up to each token, the
//             MLP
//   coding    the rows that leave the window are coded into pages, the newest become the window
// and only then are the layer's exact rows given up. On a device rows are coded as soon as there
// are enough of them, beside the blocks and layers to come (prefill_coder.h); what was found comes
// back at the end. Between two slices anything else may run; a slice has finished on the device
// when it returns, but for what it codes beside. A slice is about the work of row_block() rows
// in one phase: a short prompt passes through many phases in one, so that it does not wait for a
// decode step of others between any two of them.
//
// A few tokens appended to coded pages do not pay for reconstructing them: up to
// kDirectRowsMax tokens attend to the codes directly, as a decode step does (docs/performance.md
// "short prompts"). Which way is taken follows from the numbers of tokens only.
//
// The last layer's attention is needed for the last token's logits only.
//
// A job decides what is done next, for all ranks of the model; prefill_rank.h does it on each.
//
// Thread-compatible: the engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/engine/forward_ranks.h"
#include "worker/engine/prefill_rank.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

// Work of one slice of attention: about 100 ms on two cores with AVX2, about 50 ms on an H100.
inline constexpr double kSliceFlop = 8e9;
inline constexpr double kDeviceSliceFlop = 2e13;
// Attention is split at multiples of this many queries.
inline constexpr int64_t kQueryBlock = 64;
// What a slice of coding or reconstructing aims at.
inline constexpr absl::Duration kSliceTime = absl::Milliseconds(100);

class PrefillJob {
 public:
  // Computes all pending tokens of `fork`. `ranks` must outlive the job; `need_logits` says
  // whether Logits will be called. ResourceExhausted when the pages or the working memory it will
  // need are not there; `fork` is then dropped. REQUIRES: fork has pending tokens, all ids in
  // range.
  static absl::StatusOr<std::unique_ptr<PrefillJob>> Create(ForwardRanks* ranks,
                                                            std::unique_ptr<SessionKv> fork,
                                                            bool need_logits);
  // Whether a job that computes the pending tokens of `kv` and n_new others finds working memory
  // now: to be asked before the session is forked for it.
  static bool HasWorkMemory(const ForwardContext& context, const SessionKv& kv, int64_t n_new);

  // REQUIRES: !done(). Internal when a key or value is not finite; the job is then spent.
  absl::Status RunSlice();
  bool done() const { return layer_ == context_.shape.n_layers; }
  // Of the work, 0 .. 1.
  double fraction() const;
  // An estimate, for the scheduler.
  int64_t slices_left() const;

  // Of the last token, [vocab_size]. REQUIRES: done(), need_logits.
  void Logits(float* logits);
  // The session with the new tokens. REQUIRES: done().
  std::unique_ptr<SessionKv> Commit();

  // What was not finite, after RunSlice has failed for that.
  std::optional<KvKind> non_finite() const;
  // The session's log with the new tokens.
  std::span<const int32_t> log() const { return kv_->log(); }
  absl::Duration coding_time() const { return coding_time_; }
  // Attention and rebuilding the history for it.
  absl::Duration attention_time() const { return history_time_ + work_[0]->attention_time(); }
  int64_t n_coded_vectors() const { return n_coded_vectors_; }

 private:
  enum class Phase { kHistory, kInputs, kAttention, kCoding };

  PrefillJob(ForwardRanks* ranks, std::unique_ptr<SessionKv> fork, bool need_logits);
  // The first error of any rank.
  absl::Status RunRanks(absl::FunctionRef<absl::Status(PrefillRank&)> work);

  bool is_last_layer() const { return layer_ == context_.shape.n_layers - 1; }
  int64_t block_rows() const;
  void RunPhase();
  // What share of a slice the next phase takes, an estimate from its numbers of rows.
  double PhaseWork() const;
  double AttentionFlop() const;
  double slice_flop() const;
  void RunHistory();
  void RunInputs();
  void RunAttention();
  void FinishBlock();
  void RunCoding();
  void BeginCoding();
  void CodePages(int64_t n_pages);
  absl::Status FinishCoding();
  void BeginLayer();

  ForwardRanks* const ranks_;
  const ForwardContext& context_;  // of the first rank
  std::unique_ptr<SessionKv> kv_;
  const bool need_logits_;
  const PrefillRows rows_;
  std::vector<std::unique_ptr<PrefillRank>> work_;  // [n_ranks]

  // Where the job stands.
  int layer_ = 0;
  Phase phase_ = Phase::kHistory;
  int64_t history_pages_ = 0;  // reconstructed
  int64_t row_ = 0;            // first row of the block
  int64_t attended_ = 0;       // rows of the block that have attention
  int64_t coded_pages_ = 0;
  bool coding_begun_ = false;

  // Pages of a batch, adapted to kSliceTime; results do not depend on it.
  int64_t coding_batch_;
  int64_t history_batch_ = 64;
  absl::Duration coding_time_;
  absl::Duration history_time_;
  int64_t n_coded_vectors_ = 0;
};

}  // namespace lexico::worker

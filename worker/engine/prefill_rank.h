// What one rank computes of a prefill (prefill.h): the forward pass of blocks of rows over the
// layer's exact keys and values, and the coding of those into the rank's part of the pages. What is
// done next is decided by PrefillJob, for all ranks.
//
// Thread-compatible: the rank's thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/api/event.h"
#include "worker/engine/forward_context.h"
#include "worker/engine/prefill_coder.h"
#include "worker/engine/work_arena.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

// Up to here attention over the codes is cheaper than reconstructing them once. Measured on the
// embedded model at 16 k tokens, see docs/performance.md "short prompts".
inline constexpr int64_t kDirectRowsMax = 8;

// The rows of a prefill; they follow from the session and its pending tokens.
struct PrefillRows {
  int64_t n_rows = 0;         // new tokens
  int64_t n_window_rows = 0;  // of the session before
  bool direct = false;        // the new rows attend to the pages as they are
  // Exact rows of a layer before the new ones: the window, and the pages unless direct.
  int64_t n_history_rows = 0;
};
// The rows of a prefill of n_rows tokens of `kv`.
PrefillRows RowsOfPrefill(const SessionKv& kv, int64_t n_rows);

class PrefillRank {
 public:
  // `context` must outlive it.
  PrefillRank(ForwardContext* context, const PrefillRows& rows) : context_(context), rows_(rows) {}

  // Working memory for that many rows.
  static size_t WorkBytes(const ForwardContext& context, int64_t n_history, int64_t n_rows);
  // Takes it, and embeds the pending tokens of `kv`, whose pages are reserved. ResourceExhausted as
  // WorkArena::Acquire.
  absl::Status Begin(const SessionKv& kv);

  // History: n_pages pages from `first_page` on become exact rows, finished on return; then the
  // window.
  void RebuildPages(const SessionKv& kv, int layer, int64_t first_page, int64_t n_pages);
  void KeepWindow(const SessionKv& kv, int layer);

  // Queries, keys and values of rows [row, row + n), n <= row_block, which become the block; row is
  // a multiple of row_block. FinishSlice says whether they are finite.
  void Inputs(int layer, int64_t row, int64_t n);
  // Causal attention of rows [first, first + count) of the block over all rows up to each.
  void Attend(const SessionKv& kv, int layer, int64_t first, int64_t count);
  // The rest of the layer for the block's rows from `first` on.
  void Outputs(int layer, int64_t first);

  // Coding (prefill_coder.h) of n_pages reserved pages from `first_page` on, whose rows are there.
  void BeginCoding(const SessionKv& kv, int layer) { coder_->BeginLayer(kv, layer); }
  void Code(const SessionKv& kv, int layer, int64_t first_page, int64_t n_pages);
  absl::Status FinishCoding(const SessionKv& kv, std::span<PageError> errors) {
    return coder_->Finish(kv, errors);
  }
  // The newest rows, which the n_sealed oldest ones left, become the window.
  void EndLayer(const SessionKv& kv, int layer, int64_t n_sealed);

  // Waits for the device, but not for what it codes. Internal when a key or value of the blocks
  // since the last call is not finite.
  absl::Status FinishSlice(const SessionKv& kv);

  // Of the last token, in the stream's memory, [vocab_size].
  const float* Logits();

  // What was not finite, after FinishSlice has failed for that.
  std::optional<KvKind> non_finite() const { return non_finite_; }
  // Of Attend, up to the last FinishSlice.
  absl::Duration attention_time() const { return attention_time_; }

 private:
  // What a job computes with, in the stream's memory.
  struct Buffers {
    int32_t* ids;        // [n_rows]
    int32_t* positions;  // [n_rows]
    float* hidden;       // [n_rows, hidden_dim]
    // Exact rows of the layer, [n_history_rows + n_rows, n_kv_heads, head_dim] of rows_type.
    uint8_t* k;
    uint8_t* v;
    float* q;         // [block, n_heads, head_dim]
    void* attention;  // [block, n_heads, head_dim] of attention_type()
    float* k_block;   // [block, n_kv_heads, head_dim], where rows_type is not F32
    float* v_block;
    float* logits;        // [vocab_size]
    int32_t* non_finite;  // [n_layers, n_blocks, 2]: keys, values
    // Partial softmaxes of the direct way: over pages, over rows. [direct, n_heads, head_dim | 1]
    float* partial[2];
    float* partial_max[2];
    float* partial_sum[2];
    PrefillCoder::Arrays coding;
  };
  template <typename Take>
  static Buffers CutBuffers(const ForwardContext& context, int64_t n_history, int64_t n_rows,
                            const Take& take);

  uint8_t* history_row(bool value, int64_t row) const;
  kernels::TensorView HistoryRows(bool value, int64_t row, int64_t n) const;
  kernels::DType attention_type() const;
  kernels::MutableTensorView AttentionRows(int64_t first, int64_t n) const;
  // Whether rows are kept in another type than ops compute with.
  bool converts() const { return context_->rows_type() != kernels::DType::kF32; }
  float* FloatRows(bool value, int64_t row, int64_t n);
  void KeepRows(bool value, int64_t row, const float* from, int64_t n);
  void RoundBlock(int layer, float* k, float* v);
  // Lets the next layer's rows [row, row + n) of all exact ones be written.
  void HoldBackForRows(int64_t row, int64_t n) const;
  int64_t n_blocks() const { return BlocksOf(*context_, rows_.n_rows); }
  static int64_t BlocksOf(const ForwardContext& context, int64_t n_rows);
  void AttendRows(int64_t first, int64_t count);
  void AttendDirectly(const SessionKv& kv, int layer, int64_t first, int64_t count);

  ForwardContext* const context_;
  const PrefillRows rows_;
  int64_t row_ = 0;         // first row of the block
  int64_t block_rows_ = 0;  // of the block
  WorkArena::Piece memory_;
  Buffers buffers_ = {};
  std::optional<PrefillCoder> coder_;  // uses the memory
  // Blocks of all layers, counted through: whose flags were looked at, that have been computed.
  int64_t checked_ = 0;
  int64_t computed_ = 0;
  // Beginnings and ends of Attend on a device since the last FinishSlice; events are used again.
  struct Span {
    kernels::Event begin;
    kernels::Event end;
  };
  std::vector<Span> spans_;
  size_t n_spans_ = 0;
  absl::Duration attention_time_;
  std::optional<KvKind> non_finite_;
};

}  // namespace lexico::worker

// What one rank computes of a prefill (prefill.h): the forward pass of blocks of rows over the
// layer's exact keys and values, and the coding of those into the rank's part of the pages. What is
// done next is decided by PrefillJob, for all ranks.
//
// Thread-compatible: the rank's thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/engine/forward_context.h"
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
  // Takes it, and embeds the pending tokens of `kv`. ResourceExhausted as WorkArena::Acquire.
  absl::Status Begin(const SessionKv& kv);

  // History: n_pages pages from `first_page` on become exact rows; then the window. Finished on
  // return.
  void RebuildPages(const SessionKv& kv, int layer, int64_t first_page, int64_t n_pages);
  void KeepWindow(const SessionKv& kv, int layer);

  // Queries, keys and values of rows [row, row + n), n <= row_block, which become the block.
  // Internal when a key or value is not finite, with `position` of the first token; waits for the
  // device, which says so.
  absl::Status Inputs(int layer, int64_t row, int64_t n, int64_t position);
  // Causal attention of rows [first, first + count) of the block over all rows up to each. Finished
  // on return.
  void Attend(const SessionKv& kv, int layer, int64_t first, int64_t count);
  // The rest of the layer for the block's rows from `first` on.
  void Outputs(int layer, int64_t first);

  // Pages [first_page, first_page + errors.size()) of the reserved ones; errors as EncodePages.
  absl::Status Code(const SessionKv& kv, int layer, int64_t first_page,
                    std::span<PageError> errors);
  // Prepares dictionaries for coding many pages of the layer; held until EndLayer.
  void BeginCoding(const SessionKv& kv, int layer);
  // The newest rows, which the n_sealed oldest ones left, become the window.
  void EndLayer(const SessionKv& kv, int layer, int64_t n_sealed);

  // Of the last token, in the stream's memory, [vocab_size].
  const float* Logits();

  // What was not finite, after Inputs has failed for that.
  std::optional<KvKind> non_finite() const { return non_finite_; }

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
    int32_t* non_finite;  // [2]: keys, values
    // Partial softmaxes of the direct way: over pages, over rows. [direct, n_heads, head_dim | 1]
    float* partial[2];
    float* partial_max[2];
    float* partial_sum[2];
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
  absl::Status RoundBlock(int layer, float* k, float* v, int64_t position);
  void AttendRows(int64_t first, int64_t count);
  void AttendDirectly(const SessionKv& kv, int layer, int64_t first, int64_t count);

  ForwardContext* const context_;
  const PrefillRows rows_;
  int64_t row_ = 0;         // first row of the block
  int64_t block_rows_ = 0;  // of the block
  WorkArena::Piece memory_;
  Buffers buffers_ = {};
  // The layer's dictionaries in the form that codes many pages fastest; held while it is coded.
  LayerDictionaries coding_;
  std::optional<KvKind> non_finite_;
};

}  // namespace lexico::worker

// The keys and values of one session, and the log of its tokens.
//
//   log       t0 t1 ............................................ every token of the conversation
//             |------ sealed pages ------|------ window ------|-- pending --|
//             0                  n_sealed_tokens           n_tokens      log().size()
//
//   sealed    coded (or dense) pages, one a layer for every page_tokens tokens; shared by forks
//   window    the newest rows, exact, in the cache type: at most window_capacity() - 1 between
//   steps pending   tokens that belong to the conversation but have no keys and values yet: the
//   last token
//             of an answer, the closing of a turn, tokens of a restored session that were lost.
//             The next prefill computes them first.
//
// When the window has window_tokens + seal_tokens rows, the oldest seal_tokens become a page, so
// the newest window_tokens are always exact. Those rows are known long before that moment:
// AheadCoder (ahead_coder.h) codes a few layers' pages a step and keeps them aside, so that no step
// pays for all layers at once. What a page holds depends on its rows only, never on when it was
// coded; a snapshot leaves the pages that are still aside out, and the restored session codes them
// again to the same bits.
//
// Thread-compatible. `pool` must outlive it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache_store/format/page_key.h"
#include "kernels/api/dense_attention.h"
#include "kernels/api/stream.h"
#include "worker/kv/kv_layout.h"
#include "worker/kv/page_coder.h"
#include "worker/kv/page_pool.h"

namespace lexico::worker {

// Bytes really allocated for one session, on all ranks. Pages shared with forks count in full for
// each.
struct KvMemory {
  size_t code_bytes = 0;         // page blocks
  size_t window_bytes = 0;       // window blocks, whole, however many rows they hold
  size_t bookkeeping_bytes = 0;  // page tables, token log, chains, errors, this object
  size_t fp16_equivalent_bytes = 0;

  size_t held_bytes() const { return code_bytes + window_bytes + bookkeeping_bytes; }
};

class SessionKv {
 public:
  // An empty session: takes its window block. ResourceExhausted names the bytes needed and free.
  static absl::StatusOr<std::unique_ptr<SessionKv>> Create(PagePool* pool, const KvLayout& layout,
                                                           const store::ChainScope& scope);
  ~SessionKv();
  SessionKv(const SessionKv&) = delete;
  SessionKv& operator=(const SessionKv&) = delete;

  // The same session again: pages by reference, windows copied. ResourceExhausted as Create.
  absl::StatusOr<std::unique_ptr<SessionKv>> Fork() const;

  // -- What it holds ------------------------------------------------------------------------------
  const KvLayout& layout() const { return layout_; }
  const store::ChainScope& scope() const { return scope_; }
  std::span<const int32_t> log() const { return log_; }
  std::span<const int32_t> pending() const { return std::span(log_).subspan(n_tokens_); }
  std::span<const store::Segment> segments() const { return segments_; }
  int64_t n_tokens() const { return n_tokens_; }
  int64_t n_pages() const { return static_cast<int64_t>(chains_.size()); }
  int64_t n_sealed_tokens() const { return n_pages() * layout_.page.page_tokens; }
  int window_rows() const { return static_cast<int>(n_tokens_ - n_sealed_tokens()); }
  // [n_pages] blocks, oldest first; layer l's page lies at layout().page_offset(l). Valid until the
  // next commit.
  std::span<const uint8_t* const> page_blocks() const {
    return {page_blocks_.data(), page_blocks_.size()};
  }
  // The window's first `n_rows` rows on a rank as the kernels take them. REQUIRES: n_rows <=
  // window_capacity.
  kernels::DenseRows window(int layer, int n_rows, int rank = 0) const;
  // Where row `row` of a layer's window lies on a rank, [n_kv_heads, head_dim] of the cache type.
  // REQUIRES: row < window_capacity.
  uint8_t* window_row(int layer, bool value, int row, int rank = 0) const;
  // The pool of its blocks, which says where they lie on other ranks than the first.
  const PagePool& pool() const { return *pool_; }
  // Mean over the sealed pages of all layers; 0 without any.
  PageError mean_error() const;
  // Of one sealed page.
  PageError page_error(int64_t page, int layer) const;
  KvMemory memory() const;

  // -- The log ------------------------------------------------------------------------------------
  void AddPending(std::span<const int32_t> ids);
  // The newest token that has keys and values becomes pending again: its row is dropped, so that it
  // can be computed again for its logits. REQUIRES: window_rows() > 0.
  void PopRow();

  // -- Decode: one row for the first pending token ------------------------------------------------
  // Makes sure that the row, window_row(layer, ., window_rows()), and, if it fills the window, its
  // sealing have memory. ResourceExhausted
  // names the pages needed and free; the session is unchanged.
  absl::Status ReserveRow();
  // After the row of every layer was written: the first pending token has keys and values.
  void CommitRow();

  // -- Coding ahead (ahead_coder.h) ---------------------------------------------------------------
  // Layers whose oldest rows are to be coded in the step that writes the next row. At step s these
  // are layers s m, s m + 1, ... s m + m - 1 modulo n_layers of the page's that are missing, m =
  // n_layers / seal_tokens rounded up: the same ones for all sessions, whenever their windows began
  // to fill, so that they can be coded together; every session has had all layers when its window
  // is full, if it took part in every step. One that did not has its missing layers earlier, the
  // latest in the step that fills the window.
  std::vector<int> LayersDue(int64_t step) const;
  // Where they are coded to. REQUIRES: LayersDue is not empty, ReserveRow was OK.
  uint8_t* ahead_block() const { return ahead_block_; }
  void SetCoded(int layer, PageError error);
  // A full window's oldest rows move out: on every rank by ShiftWindow, then Seal. REQUIRES: their
  // page is coded in all layers.
  bool is_full() const { return window_rows() == layout_.window_capacity(); }
  void ShiftWindow(int rank, const kernels::Stream& stream) const;
  void Seal();

  // -- Prefill: the first n_rows pending tokens, layer by layer, on a fork ------------------------
  // Takes the blocks of the pages that sealing will need. ResourceExhausted as above.
  absl::Status ReservePages(int64_t n_rows);
  // How many rows of (window + new ones) the reserved pages will take.
  int64_t n_reserved_pages() const { return static_cast<int64_t>(reserved_.size()); }
  std::span<uint8_t* const> reserved_blocks() const { return reserved_; }
  // [n_layers, n_reserved_pages] errors, to be filled by whoever codes them.
  std::span<PageError> reserved_errors() { return reserved_errors_; }
  // The layer's new window on a rank: k and v [n_rows, n_kv_heads, head_dim], values of the cache
  // type in that or F32, in the stream's memory. The layer's old window is gone afterwards.
  // REQUIRES: n_rows as RowsKept says.
  void ReplaceWindow(int rank, int layer, kernels::TensorView k, kernels::TensorView v,
                     const kernels::Stream& stream) const;
  // After every layer: the reserved pages are sealed and the tokens have keys and values.
  void CommitPrefill(int64_t n_rows);

  // -- Restoring ----------------------------------------------------------------------------------
  // What a snapshot brought back. Blocks carry one reference each, which the session takes over.
  struct Parts {
    std::vector<int32_t> log;
    std::vector<store::Segment> segments;
    std::vector<uint8_t*> page_blocks;  // [n_pages]
    std::vector<PageError> errors;      // [n_pages, n_layers]
    uint8_t* window_block = nullptr;
    int window_rows = 0;
    // Of page blocks, beyond what their pages need, on a rank (demotion.h).
    size_t spare_bytes = 0;
  };
  // REQUIRES: the parts agree with the layout (SessionImport checks what comes from outside).
  static std::unique_ptr<SessionKv> FromParts(PagePool* pool, const KvLayout& layout,
                                              const store::ChainScope& scope, Parts parts);
  // The other way; what was coded ahead is dropped. The session is of no use afterwards. REQUIRES:
  // no reserved pages.
  Parts TakeApart();

  // The chain after page `page`, and after the window's rows.
  store::PageChain chain(int64_t page) const { return chains_[page]; }
  store::PageChain WindowChain() const;

 private:
  SessionKv(PagePool* pool, const KvLayout& layout, const store::ChainScope& scope);
  void ExtendChain(int64_t first_token, int64_t n_tokens);
  store::PageChain ExtendedChain(int64_t first_token, int64_t n_tokens) const;
  void DropAhead();

  // Constant after construction.
  PagePool* const pool_;
  const KvLayout layout_;
  const store::ChainScope scope_;

  std::vector<int32_t> log_;
  int64_t n_tokens_ = 0;
  std::vector<store::Segment> segments_;
  std::vector<uint8_t*> page_blocks_;     // [n_pages]
  std::vector<PageError> errors_;         // [n_pages, n_layers]
  std::vector<store::PageChain> chains_;  // [n_pages]
  uint8_t* window_block_ = nullptr;
  size_t spare_bytes_ = 0;
  double error_sum_k_ = 0;
  double error_sum_v_ = 0;

  // Pages that are not sealed yet: coded ahead, or reserved for a prefill.
  uint8_t* ahead_block_ = nullptr;
  std::vector<std::optional<PageError>> ahead_errors_;  // [n_layers], of those that are coded
  int ahead_coded_ = 0;                                 // how many are
  std::vector<uint8_t*> reserved_;                      // [n_reserved_pages]
  std::vector<PageError> reserved_errors_;              // [n_layers, n_reserved_pages]
};

}  // namespace lexico::worker

// A session on its way to or from the store: what it consists of, as pages of
// cache_store/format/page.h and a manifest. A session that was exported and imported continues bit
// for bit.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache_store/format/manifest.h"
#include "cache_store/format/page.h"
#include "worker/kv/page_shards.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

// A sealed page, held by reference: the session may go on, be forked or be dropped meanwhile.
// header.payload_bytes and payload_crc32c are not set; EncodeHeader computes them where the page is
// written, not on the engine's thread.
struct PageExport {
  store::PageHeader header;
  BlockRef block;     // of all layers
  size_t offset = 0;  // of this layer
  // Where the page's bytes are; the same for all pages of an export.
  std::shared_ptr<const std::vector<PagePart>> parts;

  // REQUIRES: blocks are memory of the host. payload_reader.h reads others too.
  std::span<const uint8_t> payload() const;
};

// One layer's window, copied.
struct WindowExport {
  store::PageHeader header;
  std::vector<uint8_t> payload;  // [2, n_tokens, n_kv_heads, head_dim] of the cache type
};

struct SessionSnapshot {
  // Filled: tenant, profile, fingerprints, n_layers, page_tokens, errors, n_sealed_tokens, tokens
  // (pending ones too), segments, keys, demotions. Left to the caller: birth and min profile,
  // session_id, parent_session_id, model_name, epoch, create_time_us, text_format, conversation.
  store::Manifest manifest;
  std::vector<PageExport> pages;      // [n_pages, n_layers], in the order of manifest.page_keys
  std::vector<WindowExport> windows;  // [n_layers]; empty without window or when not asked for
};

// A session's pages from `first_page` on, as it is now. They are read beside the ops, so what ops
// have written must be there (page_pool.h).
class SealedPages {
 public:
  SealedPages(PagePool* pool, const SessionKv& kv, int64_t first_page);

  // [n_pages - first_page, n_layers]. Takes about half a microsecond for each, for its key: much
  // longer than the above, and it needs the session no more.
  std::vector<PageExport> Export() const;

 private:
  KvLayout layout_;
  store::ChainScope scope_;
  int64_t first_page_;
  std::vector<store::PageChain> chains_;  // [n_pages - first_page]
  std::vector<BlockRef> blocks_;          // [n_pages - first_page]
  std::vector<PageError> errors_;         // [n_pages - first_page, n_layers]
};

// A session as it is now: pages by reference, windows copied. It may go on before Finish.
class SessionExport {
 public:
  SessionExport(PagePool* pool, const SessionKv& kv, bool with_window);
  // May be called once.
  SessionSnapshot Finish();

 private:
  const SealedPages pages_;
  SessionSnapshot snapshot_;
};

// A session being restored: buffers in the pool into which payloads are received, and the checks
// that decide what of them may be used.
//
//   import = SessionImport::Begin(pool, layout, identity, manifest)
//   while (range = import->NextPages()) is not empty:
//     for every page of it:  receive into page_buffer(i), then AcceptPage(i, header)
//   for every window:  receive into window_buffer(layer), then AcceptWindow(layer, header)
//   kv = import->Finish()
//
// Pages that are never accepted (lost, damaged) do not stop it: Finish keeps the longest run of
// whole pages from the start, and the tokens after it become pending, to be prefilled again.
//
// Thread-compatible; different pages of a range may be received and accepted by several threads.
class SessionImport {
 public:
  // Takes all blocks now. FailedPrecondition names the fingerprint, profile or shape that differs
  // from this worker's and both values; DataLoss when the manifest contradicts itself (a key that
  // does not follow from its tokens); ResourceExhausted with pages needed and free.
  static absl::StatusOr<std::unique_ptr<SessionImport>> Begin(PagePool* pool,
                                                              const KvLayout& layout,
                                                              const KvIdentity& identity,
                                                              const store::Manifest& manifest);
  ~SessionImport();
  SessionImport(const SessionImport&) = delete;
  SessionImport& operator=(const SessionImport&) = delete;

  // [n_pages * n_layers], in the order of manifest.page_keys.
  int64_t n_pages() const { return static_cast<int64_t>(page_keys_.size()); }
  const store::PageKey& page_key(int64_t index) const { return page_keys_[index]; }
  // The pages to receive next, those after the last range: all of them where blocks are memory of
  // the host. On a device as many as half a lane (staging.h) takes, which is held until the last
  // range or Finish; accepted pages of the range before are copied to their blocks meanwhile.
  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
    bool empty() const { return begin == end; }
  };
  Range NextPages();
  // REQUIRES: `index` is in the last range.
  std::span<uint8_t> page_buffer(int64_t index);
  // The page in the buffer is used if it is the one that was asked for. REQUIRES: the payload was
  // verified against `header` (store::Client does, where it receives). Errors: those of
  // CheckExpected; the page then counts as missing.
  absl::Status AcceptPage(int64_t index, const store::PageHeader& header);

  // As the manifest says; the profile at birth always.
  const std::string& birth_profile() const { return birth_profile_; }
  const std::string& min_profile() const { return min_profile_; }

  // 0 or n_layers.
  int n_windows() const { return static_cast<int>(window_keys_.size()); }
  const store::PageKey& window_key(int layer) const { return window_keys_[layer]; }
  // [payload_bytes] for a window of the length that every header must have.
  std::span<uint8_t> window_buffer(int layer);
  absl::Status AcceptWindow(int layer, const store::PageHeader& header);  // as AcceptPage

  struct Result {
    std::unique_ptr<SessionKv> kv;
    // Tokens whose keys and values did not come back; they are pending in `kv`.
    int64_t n_lost_tokens = 0;
  };
  // May be called once. Never fails: without any usable page every token is pending.
  Result Finish();

 private:
  SessionImport(PagePool* pool, const KvLayout& layout, const store::ChainScope& scope);
  absl::Status CheckKeys(const store::Manifest& manifest);
  uint8_t* PageOf(int64_t index) const;
  // Of a stored page.
  size_t page_bytes() const { return layout_.StoredPage().payload_bytes(); }
  void UploadAccepted();

  PagePool* const pool_;
  const KvLayout layout_;
  const store::ChainScope scope_;
  const std::vector<PagePart> parts_;
  std::string birth_profile_;
  std::string min_profile_;
  std::vector<int32_t> log_;
  std::vector<store::Segment> segments_;
  std::vector<store::PageKey> page_keys_;
  std::vector<store::PageKey> window_keys_;
  int64_t n_pages_ = 0;           // a layer
  int64_t window_rows_ = 0;       // of the stored window
  std::vector<uint8_t*> blocks_;  // [n_pages]
  Range range_;                   // pages that are being received
  Staging::LaneHold lane_;        // where, if blocks are not memory of the host: in half half_
  int half_ = 0;
  uint8_t* window_block_ = nullptr;
  std::vector<std::vector<uint8_t>> window_payloads_;
  std::vector<PageError> errors_;  // [n_pages, n_layers]
  std::vector<uint8_t> page_ok_;
  std::vector<uint8_t> window_ok_;
};

}  // namespace lexico::worker

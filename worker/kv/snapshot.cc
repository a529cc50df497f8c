#include "worker/kv/snapshot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "worker/kv/window_copies.h"

namespace lexico::worker {
namespace {

store::PageHeader MakeHeader(const store::ChainScope& scope, const store::PageShape& shape,
                             int layer, int64_t first_token, const store::PageKey& key) {
  store::PageHeader header;
  header.shape = shape;
  header.layer = static_cast<uint32_t>(layer);
  header.first_token = static_cast<uint64_t>(first_token);
  header.model = scope.model;
  if (shape.kind == store::PageKind::kCodes) header.dictionary = scope.dictionary;
  header.key = key;
  return header;
}

store::PageKey KeyOfPage(const KvLayout& layout, const store::PageChain& chain, int layer,
                         int64_t page) {
  return store::PageKeyOf(chain, static_cast<uint32_t>(layer), layout.StoredPage().kind,
                          static_cast<uint64_t>(page * layout.page.page_tokens));
}

std::vector<WindowExport> ExportWindows(const PagePool& pool, const SessionKv& kv) {
  const int rows = kv.window_rows();
  if (rows == 0) return {};
  const KvLayout& layout = kv.layout();
  const store::PageChain chain = kv.WindowChain();
  const store::PageShape stored = layout.StoredWindow(rows);
  std::vector<WindowExport> windows(layout.shape.n_layers);
  std::vector<std::vector<uint8_t>*> payloads;
  for (int layer = 0; layer < layout.shape.n_layers; ++layer) {
    const store::PageKey key =
        store::PageKeyOf(chain, static_cast<uint32_t>(layer), store::PageKind::kWindow,
                         static_cast<uint64_t>(kv.n_sealed_tokens()));
    windows[layer].header = MakeHeader(kv.scope(), stored, layer, kv.n_sealed_tokens(), key);
    windows[layer].payload.resize(stored.payload_bytes());
    payloads.push_back(&windows[layer].payload);
  }
  DownloadWindows(pool, kv, payloads);
  return windows;
}

template <typename T>
absl::Status CheckSame(const char* what, const T& stored, const T& ours) {
  if (stored == ours) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("session has {} {}, this worker has {}", what, stored, ours));
}

}  // namespace

std::span<const uint8_t> PageExport::payload() const {
  LEXICO_CHECK(block.pool()->staging() == nullptr);
  return {block.data() + offset, header.shape.payload_bytes()};
}

SealedPages::SealedPages(PagePool* pool, const SessionKv& kv, int64_t first_page)
    : layout_(kv.layout()), scope_(kv.scope()), first_page_(first_page) {
  for (int64_t page = first_page; page < kv.n_pages(); ++page) {
    chains_.push_back(kv.chain(page));
    blocks_.emplace_back(pool, const_cast<uint8_t*>(kv.page_blocks()[page]));
    for (int layer = 0; layer < layout_.shape.n_layers; ++layer) {
      errors_.push_back(kv.page_error(page, layer));
    }
  }
}

std::vector<PageExport> SealedPages::Export() const {
  const int n_layers = layout_.shape.n_layers;
  const store::PageShape shape = layout_.StoredPage();
  const auto parts = std::make_shared<const std::vector<PagePart>>(PartsOfPage(layout_));
  std::vector<PageExport> pages;
  pages.reserve(errors_.size());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const int64_t page = first_page_ + static_cast<int64_t>(i);
    for (int layer = 0; layer < n_layers; ++layer) {
      const PageError error = errors_[pages.size()];
      PageExport& exported = pages.emplace_back();
      exported.header = MakeHeader(scope_, shape, layer, page * layout_.page.page_tokens,
                                   KeyOfPage(layout_, chains_[i], layer, page));
      exported.header.relative_error_k = error.k;
      exported.header.relative_error_v = error.v;
      exported.block = blocks_[i];
      exported.offset = layout_.page_offset(layer);
      exported.parts = parts;
    }
  }
  return pages;
}

SessionExport::SessionExport(PagePool* pool, const SessionKv& kv, bool with_window)
    : pages_(pool, kv, 0) {
  if (with_window) snapshot_.windows = ExportWindows(*pool, kv);

  store::Manifest& manifest = snapshot_.manifest;
  manifest.tenant = kv.scope().tenant;
  manifest.profile = kv.scope().profile;
  manifest.demotions = kv.scope().demotions;
  manifest.model = kv.scope().model;
  manifest.dictionary = kv.scope().dictionary;
  manifest.tokenizer = kv.scope().tokenizer;
  manifest.n_layers = static_cast<uint32_t>(kv.layout().shape.n_layers);
  manifest.page_tokens = static_cast<uint32_t>(kv.layout().page.page_tokens);
  manifest.relative_error_k = kv.mean_error().k;
  manifest.relative_error_v = kv.mean_error().v;
  manifest.n_sealed_tokens = static_cast<uint64_t>(kv.n_sealed_tokens());
  manifest.tokens.assign(kv.log().begin(), kv.log().end());
  manifest.segments.assign(kv.segments().begin(), kv.segments().end());
  // A log that was never computed: its run will be a prefill from the start.
  if (manifest.segments.empty() && !manifest.tokens.empty()) {
    manifest.segments.push_back({0, store::SegmentKind::kPrefill});
  }
}

SessionSnapshot SessionExport::Finish() {
  snapshot_.pages = pages_.Export();
  store::Manifest& manifest = snapshot_.manifest;
  for (const PageExport& page : snapshot_.pages) manifest.page_keys.push_back(page.header.key);
  for (const WindowExport& window : snapshot_.windows) {
    manifest.window_keys.push_back(window.header.key);
  }
  return std::move(snapshot_);
}

SessionImport::SessionImport(PagePool* pool, const KvLayout& layout, const store::ChainScope& scope)
    : pool_(pool), layout_(layout), scope_(scope), parts_(PartsOfPage(layout)) {}

SessionImport::~SessionImport() {
  lane_.reset();  // copies on their way end before the blocks are somebody else's
  pool_->Release(blocks_);
  if (window_block_ != nullptr) pool_->Release({&window_block_, 1});
}

absl::StatusOr<std::unique_ptr<SessionImport>> SessionImport::Begin(
    PagePool* pool, const KvLayout& layout, const KvIdentity& identity,
    const store::Manifest& manifest) {
  LEXICO_RETURN_IF_ERROR(store::CheckManifest(manifest));
  store::ChainScope scope = MakeChainScope(layout, identity, manifest.tenant);
  scope.demotions = manifest.demotions;
  LEXICO_RETURN_IF_ERROR(CheckSame("profile", manifest.profile, scope.profile));
  LEXICO_RETURN_IF_ERROR(
      CheckSame("model fingerprint", manifest.model.ToHex(), scope.model.ToHex()));
  LEXICO_RETURN_IF_ERROR(
      CheckSame("dictionary fingerprint", manifest.dictionary.ToHex(), scope.dictionary.ToHex()));
  LEXICO_RETURN_IF_ERROR(
      CheckSame("tokenizer fingerprint", manifest.tokenizer.ToHex(), scope.tokenizer.ToHex()));
  const auto n_layers = static_cast<uint32_t>(layout.shape.n_layers);
  LEXICO_RETURN_IF_ERROR(CheckSame("layers", manifest.n_layers, n_layers));
  LEXICO_RETURN_IF_ERROR(CheckSame("page_tokens", manifest.page_tokens, scope.page_tokens));

  std::unique_ptr<SessionImport> import(new SessionImport(pool, layout, scope));
  import->log_.assign(manifest.tokens.begin(), manifest.tokens.end());
  import->segments_ = manifest.segments;
  import->birth_profile_ =
      manifest.birth_profile.empty() ? manifest.profile : manifest.birth_profile;
  import->min_profile_ = manifest.min_profile;
  import->page_keys_ = manifest.page_keys;
  import->window_keys_ = manifest.window_keys;
  import->n_pages_ = static_cast<int64_t>(manifest.n_sealed_tokens / manifest.page_tokens);
  LEXICO_RETURN_IF_ERROR(import->CheckKeys(manifest));

  std::vector<uint8_t*> blocks(import->n_pages_);
  if (!blocks.empty() && !pool->Acquire(layout.page_block_bytes(), blocks)) {
    return absl::ResourceExhaustedError(fmt::format(
        "{} blocks of pages ({}) needed to restore the session, {} free; offload others or raise "
        "--kv_memory",
        blocks.size(), base::HumanBytes(static_cast<double>(layout.page_block_bytes())),
        pool->FreeBlocks(layout.page_block_bytes())));
  }
  import->blocks_ = std::move(blocks);
  uint8_t* window_block = nullptr;
  if (!pool->Acquire(layout.window_block_bytes(), {&window_block, 1})) {
    return absl::ResourceExhaustedError(fmt::format(
        "a block of windows ({}) needed to restore the session, none is free; offload others or "
        "raise --kv_memory",
        base::HumanBytes(static_cast<double>(layout.window_block_bytes()))));
  }
  import->window_block_ = window_block;
  import->window_payloads_.resize(import->window_keys_.size());
  import->errors_.resize(import->page_keys_.size());
  import->page_ok_.resize(import->page_keys_.size());
  import->window_ok_.resize(import->window_keys_.size());
  return import;
}

// Every key follows from the tokens, their segments and the scope: a manifest whose keys do not is
// damaged, whatever its checksum says. The number of window rows is found in the same way: no other
// number of tokens gives the stored name.
absl::Status SessionImport::CheckKeys(const store::Manifest& manifest) {
  const std::span<const uint32_t> tokens = manifest.tokens;
  const auto page_tokens = static_cast<int64_t>(manifest.page_tokens);
  const int n_layers = layout_.shape.n_layers;
  store::PageChain chain = store::ChainStart(scope_);
  for (int64_t page = 0; page < n_pages_; ++page) {
    const int64_t first = page * page_tokens;
    chain = store::ChainExtend(chain, static_cast<uint64_t>(first),
                               tokens.subspan(first, page_tokens), segments_);
    for (int layer = 0; layer < n_layers; ++layer) {
      const store::PageKey key = KeyOfPage(layout_, chain, layer, page);
      const store::PageKey& stored = page_keys_[page * n_layers + layer];
      if (key != stored) {
        return absl::DataLossError(
            fmt::format("manifest names page {} of layer {} {}, its tokens make it {}", page, layer,
                        stored.ToHex(), key.ToHex()));
      }
    }
  }
  if (window_keys_.empty()) return absl::OkStatus();
  const auto first = static_cast<int64_t>(manifest.n_sealed_tokens);
  const int64_t rows_max =
      std::min<int64_t>(static_cast<int64_t>(tokens.size()) - first, layout_.window_capacity());
  for (int64_t rows = rows_max; rows > 0; --rows) {
    const store::PageChain end = store::ChainExtend(chain, static_cast<uint64_t>(first),
                                                    tokens.subspan(first, rows), segments_);
    const auto key_of = [&](int layer) {
      return store::PageKeyOf(end, static_cast<uint32_t>(layer), store::PageKind::kWindow,
                              static_cast<uint64_t>(first));
    };
    if (key_of(0) != window_keys_[0]) continue;
    window_rows_ = rows;
    for (int layer = 1; layer < n_layers; ++layer) {
      if (key_of(layer) == window_keys_[layer]) continue;
      return absl::DataLossError(
          fmt::format("manifest names the window of layer {} {}, its tokens "
                      "make it {}",
                      layer, window_keys_[layer].ToHex(), key_of(layer).ToHex()));
    }
    return absl::OkStatus();
  }
  return absl::DataLossError(
      fmt::format("manifest names a window {} that none of its newest {} tokens make",
                  window_keys_[0].ToHex(), rows_max));
}

uint8_t* SessionImport::PageOf(int64_t index) const {
  const int n_layers = layout_.shape.n_layers;
  return blocks_[index / n_layers] + layout_.page_offset(static_cast<int>(index % n_layers));
}

void SessionImport::UploadAccepted() {
  if (lane_ == nullptr) return;
  lane_->Synchronize();  // the other half is free
  for (int64_t i = range_.begin; i < range_.end; ++i) {
    if (!page_ok_[i]) continue;
    for (const PagePart& part : parts_) {
      lane_->Upload({pool_->At(PageOf(i), part.rank) + part.local,
                     page_buffer(i).data() + part.whole, part.bytes, part.rank});
    }
  }
  lane_->Start();
}

SessionImport::Range SessionImport::NextPages() {
  UploadAccepted();
  const int64_t n_left = n_pages() - range_.end;
  range_ = {range_.end, range_.end};
  Staging* const staging = pool_->staging();
  if (n_left == 0) {
    lane_.reset();
  } else if (staging == nullptr) {
    range_.end += n_left;
  } else {
    if (lane_ == nullptr) lane_ = staging->Take();
    half_ = 1 - half_;
    const size_t n_max = lane_->half(half_).size() / BlockBytes(page_bytes());
    range_.end += std::min(n_left, static_cast<int64_t>(n_max));
    LEXICO_CHECK(!range_.empty());
  }
  return range_;
}

std::span<uint8_t> SessionImport::page_buffer(int64_t index) {
  LEXICO_CHECK_GE(index, range_.begin);
  LEXICO_CHECK_LT(index, range_.end);
  if (lane_ == nullptr) return {PageOf(index), page_bytes()};
  const size_t offset = (index - range_.begin) * BlockBytes(page_bytes());
  return lane_->half(half_).subspan(offset, page_bytes());
}

absl::Status SessionImport::AcceptPage(int64_t index, const store::PageHeader& header) {
  const int n_layers = layout_.shape.n_layers;
  page_ok_[index] = 0;
  store::ExpectedPage expected;
  expected.key = page_keys_[index];
  expected.model = scope_.model;
  expected.dictionary = scope_.dictionary;
  expected.shape = layout_.StoredPage();
  expected.layer = static_cast<uint32_t>(index % n_layers);
  expected.first_token = static_cast<uint64_t>(index / n_layers * layout_.page.page_tokens);
  LEXICO_RETURN_IF_ERROR(store::CheckExpected(header, expected));
  errors_[index] = {header.relative_error_k, header.relative_error_v};
  page_ok_[index] = 1;
  return absl::OkStatus();
}

std::span<uint8_t> SessionImport::window_buffer(int layer) {
  std::vector<uint8_t>& payload = window_payloads_[layer];
  payload.resize(layout_.StoredWindow(static_cast<int>(window_rows_)).payload_bytes());
  return payload;
}

absl::Status SessionImport::AcceptWindow(int layer, const store::PageHeader& header) {
  window_ok_[layer] = 0;
  store::ExpectedPage expected;
  expected.key = window_keys_[layer];
  expected.model = scope_.model;
  expected.shape = layout_.StoredWindow(static_cast<int>(window_rows_));
  expected.layer = static_cast<uint32_t>(layer);
  expected.first_token = static_cast<uint64_t>(n_pages_ * layout_.page.page_tokens);
  LEXICO_RETURN_IF_ERROR(store::CheckExpected(header, expected));
  UploadWindow(*pool_, layout_, window_block_, layer, window_rows_, window_payloads_[layer]);
  window_payloads_[layer] = {};
  window_ok_[layer] = 1;
  return absl::OkStatus();
}

SessionImport::Result SessionImport::Finish() {
  LEXICO_CHECK(window_block_ != nullptr);
  UploadAccepted();
  lane_.reset();
  const int n_layers = layout_.shape.n_layers;
  const int64_t page_tokens = layout_.page.page_tokens;
  const auto first_bad = std::find(page_ok_.begin(), page_ok_.end(), 0);
  const int64_t n_whole = (first_bad - page_ok_.begin()) / n_layers;
  const bool complete = n_whole == n_pages_ && !window_ok_.empty() &&
                        std::find(window_ok_.begin(), window_ok_.end(), 0) == window_ok_.end();

  SessionKv::Parts parts;
  parts.window_rows = complete ? static_cast<int>(window_rows_) : 0;
  const int64_t n_kept = n_whole * page_tokens + parts.window_rows;
  // What was resident in the stored session, as far as the manifest can tell.
  const int64_t n_stored = n_pages_ * page_tokens + window_rows_;
  pool_->Release(std::span(blocks_).subspan(n_whole));
  blocks_.resize(n_whole);
  parts.page_blocks = std::move(blocks_);
  blocks_.clear();
  errors_.resize(n_whole * n_layers);
  parts.errors = std::move(errors_);
  parts.window_block = std::exchange(window_block_, nullptr);
  for (const store::Segment& segment : segments_) {
    if (static_cast<int64_t>(segment.first_token) < n_kept) parts.segments.push_back(segment);
  }
  parts.log = std::move(log_);

  Result result;
  result.n_lost_tokens = n_stored - n_kept;
  store::ChainScope scope = scope_;
  scope.demotions =
      store::DemotionsOf(std::move(scope.demotions), static_cast<uint64_t>(n_whole * page_tokens),
                         static_cast<uint64_t>(n_kept));
  result.kv = SessionKv::FromParts(pool_, layout_, scope, std::move(parts));
  return result;
}

}  // namespace lexico::worker

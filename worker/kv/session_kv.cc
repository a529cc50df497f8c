#include "worker/kv/session_kv.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "kernels/api/elementwise.h"
#include "proto/base/check.h"
#include "proto/base/options.h"

namespace lexico::worker {
namespace {

template <typename T>
size_t HeldBytes(const std::vector<T>& array) {
  return array.capacity() * sizeof(T);
}

absl::Status PagesExhausted(const PagePool& pool, size_t page_bytes, int64_t needed) {
  return absl::ResourceExhaustedError(fmt::format(
      "{} pages of {} needed, {} free; drop or offload sessions, or raise --kv_memory ({} now)",
      needed, base::HumanBytes(static_cast<double>(page_bytes)), pool.FreeBlocks(page_bytes),
      base::HumanBytes(static_cast<double>(pool.usage().total_bytes))));
}

}  // namespace

SessionKv::SessionKv(PagePool* pool, const KvLayout& layout, const store::ChainScope& scope)
    : pool_(pool), layout_(layout), scope_(scope), pages_(layout.shape.n_layers) {}

absl::StatusOr<std::unique_ptr<SessionKv>> SessionKv::Create(PagePool* pool, const KvLayout& layout,
                                                             const store::ChainScope& scope) {
  std::unique_ptr<SessionKv> kv(new SessionKv(pool, layout, scope));
  std::vector<uint8_t*> windows(layout.shape.n_layers);
  if (!pool->Acquire(layout.window_bytes(), windows)) {
    return PagesExhausted(*pool, layout.window_bytes(), layout.shape.n_layers);
  }
  kv->windows_ = std::move(windows);
  return kv;
}

SessionKv::~SessionKv() {
  for (const auto& pages : pages_) pool_->Release(pages);
  pool_->Release(ahead_);
  pool_->Release(reserved_);
  pool_->Release(windows_);
}

absl::StatusOr<std::unique_ptr<SessionKv>> SessionKv::Fork() const {
  auto fork = Create(pool_, layout_, scope_);
  if (!fork.ok()) return fork.status();
  SessionKv& to = **fork;
  to.log_ = log_;
  to.n_tokens_ = n_tokens_;
  to.segments_ = segments_;
  to.pages_ = pages_;
  to.errors_ = errors_;
  to.chains_ = chains_;
  to.error_sum_k_ = error_sum_k_;
  to.error_sum_v_ = error_sum_v_;
  for (int layer = 0; layer < layout_.shape.n_layers; ++layer) {
    pool_->Retain(pages_[layer]);
    const size_t bytes = window_rows() * layout_.shape.row_bytes();
    for (const bool value : {false, true}) {
      std::memcpy(to.window_row(layer, value, 0), window_row(layer, value, 0), bytes);
    }
  }
  return fork;
}

std::unique_ptr<SessionKv> SessionKv::FromParts(PagePool* pool, const KvLayout& layout,
                                                const store::ChainScope& scope, Parts parts) {
  std::unique_ptr<SessionKv> kv(new SessionKv(pool, layout, scope));
  LEXICO_CHECK_EQ(parts.pages.size(), kv->pages_.size());
  LEXICO_CHECK_EQ(parts.windows.size(), kv->pages_.size());
  const size_t n_pages = parts.pages[0].size();
  LEXICO_CHECK_EQ(parts.errors.size(), n_pages * kv->pages_.size());
  kv->log_ = std::move(parts.log);
  kv->segments_ = std::move(parts.segments);
  kv->pages_ = std::move(parts.pages);
  kv->errors_ = std::move(parts.errors);
  kv->windows_ = std::move(parts.windows);
  const int page_tokens = layout.page.page_tokens;
  for (size_t page = 0; page < n_pages; ++page) {
    kv->ExtendChain(static_cast<int64_t>(page) * page_tokens, page_tokens);
  }
  kv->n_tokens_ = kv->n_sealed_tokens() + parts.window_rows;
  LEXICO_CHECK_LE(kv->n_tokens_, static_cast<int64_t>(kv->log_.size()));
  for (const PageError& error : kv->errors_) {
    kv->error_sum_k_ += error.k;
    kv->error_sum_v_ += error.v;
  }
  return kv;
}

std::span<const uint8_t* const> SessionKv::pages(int layer) const {
  const std::vector<uint8_t*>& pages = pages_[layer];
  return {pages.data(), pages.size()};
}

uint8_t* SessionKv::window_row(int layer, bool value, int row) const {
  const size_t index = (value ? layout_.window_capacity() : 0) + row;
  return windows_[layer] + index * layout_.shape.row_bytes();
}

kernels::DensePiece SessionKv::window(int layer, int n_rows) const {
  LEXICO_CHECK_LE(n_rows, layout_.window_capacity());
  return {.k = window_row(layer, false, 0),
          .v = window_row(layer, true, 0),
          .n_tokens = n_rows,
          .token_stride = layout_.shape.row_dim(),
          .head_stride = layout_.shape.head_dim};
}

PageError SessionKv::mean_error() const {
  if (errors_.empty()) return {};
  const auto n = static_cast<double>(errors_.size());
  return {static_cast<float>(error_sum_k_ / n), static_cast<float>(error_sum_v_ / n)};
}

PageError SessionKv::page_error(int64_t page, int layer) const {
  return errors_[page * layout_.shape.n_layers + layer];
}

KvMemory SessionKv::memory() const {
  KvMemory memory;
  const size_t page_block = BlockBytes(layout_.page_bytes());
  const size_t n_blocks = n_pages() * pages_.size() + ahead_.size() + reserved_.size();
  memory.code_bytes = n_blocks * page_block;
  memory.window_bytes = windows_.size() * BlockBytes(layout_.window_bytes());
  memory.bookkeeping_bytes = sizeof(*this) + HeldBytes(log_) + HeldBytes(segments_) +
                             HeldBytes(pages_) + HeldBytes(errors_) + HeldBytes(chains_) +
                             HeldBytes(windows_) + HeldBytes(ahead_) + HeldBytes(ahead_errors_) +
                             HeldBytes(reserved_) + HeldBytes(reserved_errors_);
  for (const auto& pages : pages_) memory.bookkeeping_bytes += HeldBytes(pages);
  memory.fp16_equivalent_bytes = n_tokens_ * layout_.fp16_bytes_per_token();
  return memory;
}

void SessionKv::AddPending(std::span<const int32_t> ids) {
  log_.insert(log_.end(), ids.begin(), ids.end());
}

void SessionKv::PopRow() {
  LEXICO_CHECK_GT(window_rows(), 0);
  --n_tokens_;
  const auto n_tokens = static_cast<uint64_t>(n_tokens_);
  while (!segments_.empty() && segments_.back().first_token >= n_tokens) segments_.pop_back();
}

// -- Decode
// -----------------------------------------------------------------------------------------

// Pages still missing are spread evenly over the steps until the window is full, this one included;
// all of them are due when it is.
int64_t SessionKv::LayersDue() const {
  const int rows = window_rows();
  const int64_t missing = layout_.shape.n_layers - ahead_coded_;
  if (rows <= layout_.window_tokens) return 0;
  const int64_t steps_left = layout_.window_capacity() - rows + 1;
  return (missing + steps_left - 1) / steps_left;
}

absl::Status SessionKv::ReserveRow() {
  if (window_rows() >= layout_.window_capacity()) {
    return absl::InternalError(
        fmt::format("the window holds {} rows and could not be sealed before", window_rows()));
  }
  // Memory for the pages that this row makes due, all layers' when it fills the window.
  const int rows = window_rows() + 1;
  if (rows <= layout_.window_tokens) return absl::OkStatus();
  const int64_t steps_left = layout_.window_capacity() - rows + 1;
  const int64_t missing = layout_.shape.n_layers - ahead_coded_;
  const int64_t wanted = ahead_coded_ + (missing + steps_left - 1) / steps_left;
  const int64_t needed = wanted - static_cast<int64_t>(ahead_.size());
  if (needed <= 0) return absl::OkStatus();
  std::vector<uint8_t*> blocks(needed);
  if (!pool_->Acquire(layout_.page_bytes(), blocks)) {
    return PagesExhausted(*pool_, layout_.page_bytes(), needed);
  }
  ahead_.insert(ahead_.end(), blocks.begin(), blocks.end());
  ahead_errors_.resize(ahead_.size());
  return absl::OkStatus();
}

std::optional<KvKind> SessionKv::WriteRow(int layer, const float* k, const float* v) {
  const int row = window_rows();
  LEXICO_CHECK_LT(row, layout_.window_capacity());
  const int64_t dim = layout_.shape.row_dim();
  const kernels::DType type = layout_.shape.cache_type;
  // One row is far below the cost of starting threads.
  const kernels::Stream stream = kernels::Stream::Cpu(1);
  std::vector<float> rounded(dim);
  std::optional<KvKind> bad;
  for (const bool value : {false, true}) {
    uint8_t* to = window_row(layer, value, row);
    kernels::Convert({value ? v : k, {dim}}, {to, type, {dim}}, stream);
    kernels::Convert({to, type, {dim}}, {rounded.data(), {dim}}, stream);
    for (const float x : rounded) {
      if (!std::isfinite(x)) bad = value ? KvKind::kValue : KvKind::kKey;
    }
  }
  return bad;
}

void SessionKv::CommitRow() {
  LEXICO_CHECK_LT(n_tokens_, static_cast<int64_t>(log_.size()));
  if (segments_.empty() || segments_.back().kind != store::SegmentKind::kDecode) {
    segments_.push_back({static_cast<uint64_t>(n_tokens_), store::SegmentKind::kDecode});
  }
  ++n_tokens_;
}

absl::StatusOr<int64_t> SessionKv::CodeAhead(std::span<const LayerDictionaries> dictionaries,
                                             const kernels::Stream& stream, CoderScratch& scratch) {
  const int64_t due = LayersDue();
  const int64_t n_values = layout_.seal_tokens() * layout_.shape.row_dim();
  std::vector<float> rows(2 * n_values);
  const LayerDictionaries none;
  for (int64_t i = 0; i < due; ++i) {
    const int layer = ahead_coded_;
    LEXICO_CHECK_LT(layer, static_cast<int>(ahead_.size()));  // ReserveRow has taken them
    for (const bool value : {false, true}) {
      kernels::Convert({window_row(layer, value, 0), layout_.shape.cache_type, {n_values}},
                       {rows.data() + (value ? n_values : 0), {n_values}}, stream);
    }
    const absl::Status coded = EncodePages(
        layout_, layout_.profile.is_dense() ? none : dictionaries[layer], rows.data(),
        rows.data() + n_values, {&ahead_[layer], 1}, {&ahead_errors_[layer], 1}, stream, scratch);
    if (!coded.ok()) return coded;
    ++ahead_coded_;
  }
  if (window_rows() == layout_.window_capacity()) Seal();
  if (layout_.profile.is_dense()) return 0;
  return due * 2 * layout_.seal_tokens() * layout_.shape.n_kv_heads;
}

void SessionKv::Seal() {
  const int n_layers = layout_.shape.n_layers;
  LEXICO_CHECK_EQ(ahead_coded_, n_layers);
  const size_t row_bytes = layout_.shape.row_bytes();
  for (int layer = 0; layer < n_layers; ++layer) {
    pages_[layer].push_back(ahead_[layer]);
    errors_.push_back(ahead_errors_[layer]);
    error_sum_k_ += ahead_errors_[layer].k;
    error_sum_v_ += ahead_errors_[layer].v;
    for (const bool value : {false, true}) {
      std::memmove(window_row(layer, value, 0), window_row(layer, value, layout_.seal_tokens()),
                   layout_.window_tokens * row_bytes);
    }
  }
  ahead_.clear();
  ahead_errors_.clear();
  ahead_coded_ = 0;
  ExtendChain(n_sealed_tokens(), layout_.seal_tokens());
}

// -- Prefill
// ----------------------------------------------------------------------------------------

absl::Status SessionKv::ReservePages(int64_t n_rows) {
  LEXICO_CHECK(reserved_.empty());
  const int64_t rows = window_rows() + n_rows;
  const int64_t n_pages = (rows - layout_.RowsKept(rows)) / layout_.page.page_tokens;
  std::vector<uint8_t*> blocks(n_pages * layout_.shape.n_layers);
  if (!blocks.empty() && !pool_->Acquire(layout_.page_bytes(), blocks)) {
    return PagesExhausted(*pool_, layout_.page_bytes(), static_cast<int64_t>(blocks.size()));
  }
  reserved_ = std::move(blocks);
  reserved_errors_.assign(reserved_.size(), PageError{});
  n_reserved_pages_ = n_pages;
  return absl::OkStatus();
}

std::span<uint8_t* const> SessionKv::reserved_pages(int layer) const {
  return std::span(reserved_).subspan(layer * n_reserved_pages_, n_reserved_pages_);
}

std::span<PageError> SessionKv::reserved_errors(int layer) {
  return std::span(reserved_errors_).subspan(layer * n_reserved_pages_, n_reserved_pages_);
}

void SessionKv::ReplaceWindow(int layer, const float* k, const float* v, int64_t n_rows) {
  LEXICO_CHECK_LT(n_rows, layout_.window_capacity());
  const int64_t n_values = n_rows * layout_.shape.row_dim();
  if (n_values == 0) return;
  const kernels::Stream stream = kernels::Stream::Cpu(1);
  const kernels::DType type = layout_.shape.cache_type;
  kernels::Convert({k, {n_values}}, {window_row(layer, false, 0), type, {n_values}}, stream);
  kernels::Convert({v, {n_values}}, {window_row(layer, true, 0), type, {n_values}}, stream);
}

void SessionKv::CommitPrefill(int64_t n_rows) {
  LEXICO_CHECK_LE(n_tokens_ + n_rows, static_cast<int64_t>(log_.size()));
  segments_.push_back({static_cast<uint64_t>(n_tokens_), store::SegmentKind::kPrefill});
  const int n_layers = layout_.shape.n_layers;
  chains_.reserve(chains_.size() + n_reserved_pages_);
  errors_.reserve(errors_.size() + reserved_.size());
  for (int layer = 0; layer < n_layers; ++layer) {
    const auto blocks = reserved_pages(layer);
    pages_[layer].reserve(pages_[layer].size() + blocks.size());
    pages_[layer].insert(pages_[layer].end(), blocks.begin(), blocks.end());
  }
  for (int64_t page = 0; page < n_reserved_pages_; ++page) {
    for (int layer = 0; layer < n_layers; ++layer) {
      const PageError error = reserved_errors(layer)[page];
      errors_.push_back(error);
      error_sum_k_ += error.k;
      error_sum_v_ += error.v;
    }
    ExtendChain(n_sealed_tokens(), layout_.page.page_tokens);
  }
  n_tokens_ += n_rows;
  reserved_ = {};
  reserved_errors_ = {};
  n_reserved_pages_ = 0;
  // Pages that were coded ahead for the old window have become part of the reserved ones.
  pool_->Release(ahead_);
  ahead_ = {};
  ahead_errors_ = {};
  ahead_coded_ = 0;
}

// -- The chain
// --------------------------------------------------------------------------------------

store::PageChain SessionKv::ExtendedChain(int64_t first_token, int64_t n_tokens) const {
  const store::PageChain before = chains_.empty() ? store::ChainStart(scope_) : chains_.back();
  const std::span<const uint32_t> tokens(reinterpret_cast<const uint32_t*>(log_.data()),
                                         log_.size());
  return store::ChainExtend(before, static_cast<uint64_t>(first_token),
                            tokens.subspan(first_token, n_tokens), segments_);
}

void SessionKv::ExtendChain(int64_t first_token, int64_t n_tokens) {
  chains_.push_back(ExtendedChain(first_token, n_tokens));
}

store::PageChain SessionKv::WindowChain() const {
  return ExtendedChain(n_sealed_tokens(), window_rows());
}

}  // namespace lexico::worker

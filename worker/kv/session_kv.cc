#include "worker/kv/session_kv.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/api/elementwise.h"
#include "kernels/api/shift_down.h"
#include "proto/base/check.h"
#include "proto/base/options.h"

namespace lexico::worker {
namespace {

template <typename T>
size_t HeldBytes(const std::vector<T>& array) {
  return array.capacity() * sizeof(T);
}

absl::Status BlocksExhausted(const PagePool& pool, const char* of, size_t block_bytes,
                             size_t needed) {
  return absl::ResourceExhaustedError(fmt::format(
      "{} blocks of {} ({}) needed, {} free; drop or offload sessions, or raise --kv_memory ({} "
      "now)",
      needed, of, base::HumanBytes(static_cast<double>(block_bytes)), pool.FreeBlocks(block_bytes),
      base::HumanBytes(static_cast<double>(pool.usage().total_bytes))));
}

}  // namespace

SessionKv::SessionKv(PagePool* pool, const KvLayout& layout, const store::ChainScope& scope)
    : pool_(pool), layout_(layout), scope_(scope) {}

absl::StatusOr<std::unique_ptr<SessionKv>> SessionKv::Create(PagePool* pool, const KvLayout& layout,
                                                             const store::ChainScope& scope) {
  std::unique_ptr<SessionKv> kv(new SessionKv(pool, layout, scope));
  if (!pool->Acquire(layout.window_block_bytes(), {&kv->window_block_, 1})) {
    kv->window_block_ = nullptr;
    return BlocksExhausted(*pool, "windows", layout.window_block_bytes(), 1);
  }
  return kv;
}

SessionKv::~SessionKv() {
  pool_->Release(page_blocks_);
  pool_->Release(reserved_);
  if (ahead_block_ != nullptr) pool_->Release({&ahead_block_, 1});
  if (window_block_ != nullptr) pool_->Release({&window_block_, 1});
}

absl::StatusOr<std::unique_ptr<SessionKv>> SessionKv::Fork() const {
  auto fork = Create(pool_, layout_, scope_);
  if (!fork.ok()) return fork.status();
  SessionKv& to = **fork;
  to.log_ = log_;
  to.n_tokens_ = n_tokens_;
  to.segments_ = segments_;
  pool_->Retain(page_blocks_);
  to.page_blocks_ = page_blocks_;
  to.spare_bytes_ = spare_bytes_;
  to.errors_ = errors_;
  to.chains_ = chains_;
  to.error_sum_k_ = error_sum_k_;
  to.error_sum_v_ = error_sum_v_;
  if (window_rows() > 0) {
    pool_->CopyBlock(to.window_block_, window_block_, layout_.window_block_bytes());
  }
  return fork;
}

std::unique_ptr<SessionKv> SessionKv::FromParts(PagePool* pool, const KvLayout& layout,
                                                const store::ChainScope& scope, Parts parts) {
  std::unique_ptr<SessionKv> kv(new SessionKv(pool, layout, scope));
  const size_t n_pages = parts.page_blocks.size();
  LEXICO_CHECK(parts.window_block != nullptr);
  LEXICO_CHECK_EQ(parts.errors.size(), n_pages * layout.shape.n_layers);
  kv->log_ = std::move(parts.log);
  kv->segments_ = std::move(parts.segments);
  kv->page_blocks_ = std::move(parts.page_blocks);
  kv->errors_ = std::move(parts.errors);
  kv->window_block_ = parts.window_block;
  kv->spare_bytes_ = parts.spare_bytes;
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

SessionKv::Parts SessionKv::TakeApart() {
  LEXICO_CHECK(reserved_.empty());
  DropAhead();
  Parts parts;
  parts.window_rows = window_rows();
  parts.log = std::move(log_);
  parts.segments = std::move(segments_);
  parts.page_blocks = std::exchange(page_blocks_, {});
  parts.errors = std::move(errors_);
  parts.window_block = std::exchange(window_block_, nullptr);
  parts.spare_bytes = spare_bytes_;
  return parts;
}

uint8_t* SessionKv::window_row(int layer, bool value, int row, int rank) const {
  const size_t index = (value ? layout_.window_capacity() : 0) + row;
  return pool_->At(window_block_, rank) + layout_.window_offset(layer) +
         index * layout_.shape.row_bytes();
}

kernels::DenseRows SessionKv::window(int layer, int n_rows, int rank) const {
  LEXICO_CHECK_LE(n_rows, layout_.window_capacity());
  return {.k = window_row(layer, false, 0, rank),
          .v = window_row(layer, true, 0, rank),
          .n_tokens = n_rows};
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
  const size_t n_blocks =
      page_blocks_.size() + (ahead_block_ != nullptr ? 1 : 0) + reserved_.size();
  memory.code_bytes = pool_->n_ranks() * (n_blocks * layout_.page_block_bytes() + spare_bytes_);
  memory.window_bytes = pool_->n_ranks() * layout_.window_block_bytes();
  memory.bookkeeping_bytes = sizeof(*this) + HeldBytes(log_) + HeldBytes(segments_) +
                             HeldBytes(page_blocks_) + HeldBytes(errors_) + HeldBytes(chains_) +
                             HeldBytes(ahead_errors_) + HeldBytes(reserved_) +
                             HeldBytes(reserved_errors_);
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

std::vector<int> SessionKv::LayersDue(int64_t step) const {
  const int rows = window_rows() + 1;
  if (rows <= layout_.window_tokens) return {};
  const int64_t n_layers = layout_.shape.n_layers;
  const int64_t per_step = (n_layers + layout_.seal_tokens() - 1) / layout_.seal_tokens();
  const int64_t steps_left = layout_.window_capacity() - rows;  // behind this one
  const auto is_coded = [&](int layer) {
    return ahead_coded_ > 0 && ahead_errors_[layer].has_value();
  };
  std::vector<int> due;
  for (int64_t i = 0; i < n_layers; ++i) {
    const auto layer = static_cast<int>((step * per_step + i) % n_layers);
    if (is_coded(layer)) continue;
    const auto missing = n_layers - ahead_coded_ - std::ssize(due);
    if (i >= per_step && missing <= steps_left * per_step) break;
    due.push_back(layer);
  }
  return due;
}

void SessionKv::SetCoded(int layer, PageError error) {
  LEXICO_CHECK(ahead_block_ != nullptr);  // ReserveRow has taken it
  LEXICO_CHECK(!ahead_errors_[layer].has_value());
  ahead_errors_[layer] = error;
  ++ahead_coded_;
}

absl::Status SessionKv::ReserveRow() {
  if (is_full()) {
    return absl::InternalError(
        fmt::format("the window holds {} rows and could not be sealed before", window_rows()));
  }
  // The first row beyond the newest window_tokens makes a layer's page due.
  if (window_rows() < layout_.window_tokens || ahead_block_ != nullptr) return absl::OkStatus();
  if (!pool_->Acquire(layout_.page_block_bytes(), {&ahead_block_, 1})) {
    ahead_block_ = nullptr;
    return BlocksExhausted(*pool_, "pages", layout_.page_block_bytes(), 1);
  }
  ahead_errors_.resize(layout_.shape.n_layers);
  return absl::OkStatus();
}

void SessionKv::CommitRow() {
  LEXICO_CHECK_LT(n_tokens_, static_cast<int64_t>(log_.size()));
  if (segments_.empty() || segments_.back().kind != store::SegmentKind::kDecode) {
    segments_.push_back({static_cast<uint64_t>(n_tokens_), store::SegmentKind::kDecode});
  }
  ++n_tokens_;
}

// Keys and values of every layer lie one half window apart.
void SessionKv::ShiftWindow(int rank, const kernels::Stream& stream) const {
  const size_t row_bytes = layout_.shape.row_bytes();
  kernels::ShiftDown({.base = pool_->At(window_block_, rank),
                      .n_parts = int64_t{2} * layout_.shape.n_layers,
                      .part_stride = layout_.window_capacity() * row_bytes,
                      .shift = layout_.seal_tokens() * row_bytes,
                      .kept = layout_.window_tokens * row_bytes},
                     stream);
}

void SessionKv::Seal() {
  LEXICO_CHECK(is_full());
  LEXICO_CHECK_EQ(ahead_coded_, layout_.shape.n_layers);
  page_blocks_.push_back(ahead_block_);
  for (const std::optional<PageError>& error : ahead_errors_) {
    errors_.push_back(*error);
    error_sum_k_ += error->k;
    error_sum_v_ += error->v;
  }
  ahead_block_ = nullptr;
  DropAhead();
  ExtendChain(n_sealed_tokens(), layout_.seal_tokens());
}

// -- Prefill
// ----------------------------------------------------------------------------------------

absl::Status SessionKv::ReservePages(int64_t n_rows) {
  LEXICO_CHECK(reserved_.empty());
  const int64_t rows = window_rows() + n_rows;
  const int64_t n_pages = (rows - layout_.RowsKept(rows)) / layout_.page.page_tokens;
  std::vector<uint8_t*> blocks(n_pages);
  if (!blocks.empty() && !pool_->Acquire(layout_.page_block_bytes(), blocks)) {
    return BlocksExhausted(*pool_, "pages", layout_.page_block_bytes(), blocks.size());
  }
  reserved_ = std::move(blocks);
  reserved_errors_.assign(n_pages * layout_.shape.n_layers, PageError{});
  return absl::OkStatus();
}

void SessionKv::ReplaceWindow(int rank, int layer, kernels::TensorView k, kernels::TensorView v,
                              const kernels::Stream& stream) const {
  const int64_t n_values = k.size();
  LEXICO_CHECK_EQ(v.size(), n_values);
  LEXICO_CHECK_LT(n_values, layout_.window_capacity() * layout_.shape.row_dim());
  if (n_values == 0) return;
  for (const bool value : {false, true}) {
    kernels::Convert(value ? v : k,
                     {window_row(layer, value, 0, rank), layout_.shape.cache_type, {n_values}},
                     stream);
  }
}

void SessionKv::CommitPrefill(int64_t n_rows) {
  LEXICO_CHECK_LE(n_tokens_ + n_rows, static_cast<int64_t>(log_.size()));
  segments_.push_back({static_cast<uint64_t>(n_tokens_), store::SegmentKind::kPrefill});
  const int n_layers = layout_.shape.n_layers;
  chains_.reserve(chains_.size() + reserved_.size());
  errors_.reserve(errors_.size() + reserved_errors_.size());
  page_blocks_.reserve(page_blocks_.size() + reserved_.size());
  page_blocks_.insert(page_blocks_.end(), reserved_.begin(), reserved_.end());
  for (size_t page = 0; page < reserved_.size(); ++page) {
    for (int layer = 0; layer < n_layers; ++layer) {
      const PageError error = reserved_errors_[layer * reserved_.size() + page];
      errors_.push_back(error);
      error_sum_k_ += error.k;
      error_sum_v_ += error.v;
    }
    ExtendChain(n_sealed_tokens(), layout_.page.page_tokens);
  }
  n_tokens_ += n_rows;
  reserved_ = {};
  reserved_errors_ = {};
  // Pages that were coded ahead for the old window have become part of the reserved ones.
  DropAhead();
}

void SessionKv::DropAhead() {
  if (ahead_block_ != nullptr) pool_->Release({&ahead_block_, 1});
  ahead_block_ = nullptr;
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

#include "worker/engine/prefill.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/api/dense_attention.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/elementwise.h"
#include "kernels/api/merge_partials.h"
#include "proto/base/check.h"
#include "worker/engine/page_attention.h"

namespace lexico::worker {
namespace {

// Batches half or double towards kSliceTime.
int64_t AdaptBatch(int64_t batch, absl::Duration took) {
  if (took > 2 * kSliceTime) return std::max<int64_t>(batch / 2, 1);
  if (took < kSliceTime / 2) return std::min<int64_t>(batch * 2, 1024);
  return batch;
}

bool AttendsDirectly(const SessionKv& kv) {
  return kv.n_pages() > 0 && kv.pending().size() <= static_cast<size_t>(kDirectRowsMax);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PrefillJob>> PrefillJob::Create(ForwardContext* context,
                                                               std::unique_ptr<SessionKv> fork,
                                                               bool need_logits) {
  const auto n_rows = static_cast<int64_t>(fork->pending().size());
  LEXICO_CHECK_GT(n_rows, int64_t{0});
  if (const absl::Status reserved = fork->ReservePages(n_rows); !reserved.ok()) return reserved;
  std::unique_ptr<PrefillJob> job(new PrefillJob(context, std::move(fork), need_logits));
  return job;
}

PrefillJob::PrefillJob(ForwardContext* context, std::unique_ptr<SessionKv> fork, bool need_logits)
    : context_(context),
      kv_(std::move(fork)),
      need_logits_(need_logits),
      n_rows_(static_cast<int64_t>(kv_->pending().size())),
      n_window_rows_(kv_->window_rows()),
      direct_(AttendsDirectly(*kv_)),
      n_history_rows_(n_window_rows_ + (direct_ ? 0 : kv_->n_sealed_tokens())) {
  const ModelConfig& config = context_->config();
  positions_.resize(n_rows_);
  std::iota(positions_.begin(), positions_.end(), static_cast<int32_t>(kv_->n_tokens()));
  hidden_.resize(n_rows_ * config.hidden_dim);
  const int64_t rows = n_history_rows_ + n_rows_;
  k_.resize(rows * context_->shape.row_dim());
  v_.resize(rows * context_->shape.row_dim());
  const int64_t block = std::min(n_rows_, Transformer::kRowBlock);
  q_.resize(block * config.q_dim());
  attention_.resize(block * config.q_dim());
  if (direct_) {
    for (int part = 0; part < 2; ++part) {
      partial_[part].resize(block * config.q_dim());
      partial_max_[part].resize(block * config.n_heads);
      partial_sum_[part].resize(block * config.n_heads);
    }
  }
  context_->transformer->Embed(kv_->pending(), hidden_.data());
  BeginLayer();
}

void PrefillJob::BeginLayer() {
  phase_ = n_history_rows_ > 0 ? Phase::kHistory : Phase::kInputs;
  history_pages_ = 0;
  row_ = 0;
  attended_ = 0;
  coded_pages_ = 0;
}

float* PrefillJob::history_row(bool value, int64_t row) {
  return (value ? v_ : k_).data() + row * context_->shape.row_dim();
}

int64_t PrefillJob::block_rows() const { return std::min(Transformer::kRowBlock, n_rows_ - row_); }

absl::Status PrefillJob::RunSlice() {
  LEXICO_CHECK(!done());
  switch (phase_) {
    case Phase::kHistory: {
      const absl::Time begin = context_->clock->Now();
      RunHistory();
      attention_time_ += context_->clock->Now() - begin;
      return absl::OkStatus();
    }
    case Phase::kInputs:
      return RunInputs();
    case Phase::kAttention:
      RunAttention();
      return absl::OkStatus();
    case Phase::kCoding:
      return RunCoding();
  }
  LEXICO_UNREACHABLE();
}

void PrefillJob::RunHistory() {
  const KvLayout& layout = kv_->layout();
  const int64_t n_pages = direct_ ? 0 : kv_->n_pages();
  const int64_t batch = std::min(history_batch_, n_pages - history_pages_);
  if (batch > 0) {
    const absl::Time begin = context_->clock->Now();
    const auto blocks = kv_->page_blocks().subspan(history_pages_, batch);
    for (const bool value : {false, true}) {
      DecodePages(layout, context_->dictionaries_of(layer_), value, layer_, blocks,
                  history_row(value, history_pages_ * layout.page.page_tokens), context_->stream,
                  context_->coder_scratch);
    }
    history_pages_ += batch;
    history_batch_ = AdaptBatch(batch, context_->clock->Now() - begin);
  }
  if (history_pages_ < n_pages) return;
  const kernels::DenseRows window = kv_->window(layer_, static_cast<int>(n_window_rows_));
  const int64_t n_values = n_window_rows_ * layout.shape.row_dim();
  const int64_t first = n_history_rows_ - n_window_rows_;
  if (n_values > 0) {
    for (const bool value : {false, true}) {
      kernels::Convert({value ? window.v : window.k, layout.shape.cache_type, {n_values}},
                       {history_row(value, first), {n_values}}, context_->stream);
    }
  }
  phase_ = Phase::kInputs;
}

absl::Status PrefillJob::RunInputs() {
  const int64_t rows = block_rows();
  const int64_t first = n_history_rows_ + row_;
  context_->transformer->AttentionInputs(
      layer_, hidden_.data() + row_ * context_->config().hidden_dim, rows, positions_.data() + row_,
      q_.data(), history_row(false, first), history_row(true, first),
      context_->transformer_scratch);
  for (const bool value : {false, true}) {
    if (!RoundToCacheType(context_->shape.cache_type, rows * context_->shape.row_dim(),
                          history_row(value, first), context_->stream, rounding_)) {
      non_finite_ = value ? KvKind::kValue : KvKind::kKey;
      return absl::InternalError(
          fmt::format("a {} of layer {} at one of positions {} to {} is not finite as {}",
                      value ? "value" : "key", layer_, positions_[row_],
                      positions_[row_ + rows - 1], kernels::DTypeName(context_->shape.cache_type)));
    }
  }
  attended_ = 0;
  phase_ = Phase::kAttention;
  // Of the last layer only the last token's attention is used, for its logits.
  if (is_last_layer()) {
    const bool last_block = row_ + rows == n_rows_;
    attended_ = last_block && need_logits_ ? rows - 1 : rows;
  }
  if (attended_ == rows) FinishBlock();
  return absl::OkStatus();
}

void PrefillJob::RunAttention() {
  const int64_t rows = block_rows();
  const ModelConfig& config = context_->config();
  const double keys = static_cast<double>(n_history_rows_ + row_ + rows);
  const double flop_per_row = 4.0 * config.head_dim * config.n_heads * keys;
  const auto blocks = static_cast<int64_t>(kSliceFlop / flop_per_row) / kQueryBlock;
  const int64_t count = std::min(rows - attended_, std::max<int64_t>(blocks, 1) * kQueryBlock);
  const absl::Time begin = context_->clock->Now();
  if (direct_) {
    AttendDirectly(attended_, count);
  } else {
    AttendRows(attended_, count);
  }
  attention_time_ += context_->clock->Now() - begin;
  attended_ += count;
  if (attended_ < rows) return;
  const int64_t first = is_last_layer() ? rows - 1 : 0;
  context_->transformer->AttentionOutputs(
      layer_, attention_.data() + first * config.q_dim(), rows - first,
      hidden_.data() + (row_ + first) * config.hidden_dim, context_->transformer_scratch);
  FinishBlock();
}

void PrefillJob::AttendRows(int64_t first, int64_t count) {
  const ModelConfig& config = context_->config();
  const int64_t position = n_history_rows_ + row_ + first;  // among the rows of k_
  const int64_t n_keys = position + count;
  kernels::PrefillAttention(
      {.q = {q_.data() + first * config.q_dim(), {count, config.n_heads, config.head_dim}},
       .k = {k_.data(), {n_keys, config.n_kv_heads, config.head_dim}},
       .v = {v_.data(), {n_keys, config.n_kv_heads, config.head_dim}},
       .first_position = position,
       .scale = context_->attention_scale(),
       .allow_bf16 = kv_->layout().shape.cache_type == kernels::DType::kBF16,
       .out = {attention_.data() + first * config.q_dim(),
               {count, config.n_heads, config.head_dim}}},
      context_->stream);
}

void PrefillJob::AttendDirectly(int64_t first, int64_t count) {
  const ModelConfig& config = context_->config();
  const float* q = q_.data() + first * config.q_dim();
  const auto part = [&](int i) {
    return PartialRows(context_->shape, config.n_heads, first, count, partial_[i].data(),
                       partial_max_[i].data(), partial_sum_[i].data());
  };
  const PartialViews over_pages = part(0);
  const PartialViews over_rows = part(1);
  const std::vector<const SessionKv*> sessions(count, kv_.get());
  PageAttentionScratch scratch;
  AttendToPages(*context_, layer_, sessions, q, over_pages, scratch);

  std::vector<kernels::DenseRows> rows(count);
  for (int64_t i = 0; i < count; ++i) {
    rows[i] = {.k = k_.data(), .v = v_.data(), .n_tokens = n_history_rows_ + row_ + first + i + 1};
  }
  kernels::DenseAttention({.q = {q, {count, config.n_heads, config.head_dim}},
                           .rows = rows.data(),
                           .rows_max = rows.back().n_tokens,
                           .n_kv_heads = config.n_kv_heads,
                           .kv_type = kernels::DType::kF32,
                           .scale = context_->attention_scale(),
                           .out = over_rows.out,
                           .max_score = over_rows.max_score,
                           .sum_exp = over_rows.sum_exp},
                          context_->stream);
  const kernels::AttentionPart parts[] = {
      {over_pages.out, over_pages.max_score, over_pages.sum_exp},
      {over_rows.out, over_rows.max_score, over_rows.sum_exp}};
  kernels::MergePartials(
      parts, {attention_.data() + first * config.q_dim(), {count, config.n_heads, config.head_dim}},
      context_->stream);
}

void PrefillJob::FinishBlock() {
  row_ += block_rows();
  phase_ = row_ < n_rows_ ? Phase::kInputs : Phase::kCoding;
}

LayerDictionaries PrefillJob::DictionariesForCoding() const {
  const KvLayout& layout = kv_->layout();
  const LayerDictionaries& own = context_->dictionaries_of(layer_);
  const int64_t n_vectors =
      kv_->n_reserved_pages() * layout.page.page_tokens * layout.shape.n_kv_heads;
  return {kernels::DictionaryForCoding(own.k, n_vectors, layout.page.sparsity_k, context_->stream),
          kernels::DictionaryForCoding(own.v, n_vectors, layout.page.sparsity_v, context_->stream)};
}

absl::Status PrefillJob::RunCoding() {
  const KvLayout& layout = kv_->layout();
  // Rows that are not in sealed pages yet: the old window, then the new ones.
  const int64_t first_unsealed = n_history_rows_ - n_window_rows_;
  const int64_t n_pages = kv_->n_reserved_pages();
  const int64_t batch = std::min(coding_batch_, n_pages - coded_pages_);
  if (batch > 0 && coding_.k == nullptr && !layout.profile.is_dense()) {
    const absl::Time begin = context_->clock->Now();
    coding_ = DictionariesForCoding();
    coding_time_ += context_->clock->Now() - begin;
    return absl::OkStatus();
  }
  if (batch > 0) {
    const absl::Time begin = context_->clock->Now();
    const int64_t row = first_unsealed + coded_pages_ * layout.page.page_tokens;
    const absl::Status coded =
        EncodePages(layout, coding_, history_row(false, row), history_row(true, row), layer_,
                    kv_->reserved_blocks().subspan(coded_pages_, batch),
                    kv_->reserved_errors(layer_).subspan(coded_pages_, batch), context_->stream,
                    context_->coder_scratch);
    if (!coded.ok()) return coded;
    const absl::Duration took = context_->clock->Now() - begin;
    coded_pages_ += batch;
    if (!layout.profile.is_dense()) {
      coding_time_ += took;
      n_coded_vectors_ += batch * 2 * layout.page.page_tokens * layout.shape.n_kv_heads;
    }
    coding_batch_ = AdaptBatch(batch, took);
  }
  if (coded_pages_ < n_pages) return absl::OkStatus();
  coding_ = {};
  const int64_t n_sealed = n_pages * layout.page.page_tokens;
  const int64_t window = n_window_rows_ + n_rows_ - n_sealed;
  kv_->ReplaceWindow(layer_, history_row(false, first_unsealed + n_sealed),
                     history_row(true, first_unsealed + n_sealed), window);
  ++layer_;
  BeginLayer();
  return absl::OkStatus();
}

double PrefillJob::fraction() const {
  const int64_t n_pages = std::max<int64_t>(kv_->n_reserved_pages(), 1);
  // Of a layer's work coding is about a quarter; exactness does not matter to a progress bar.
  const double within = 0.75 * static_cast<double>(row_) / static_cast<double>(n_rows_) +
                        0.25 * static_cast<double>(coded_pages_) / static_cast<double>(n_pages);
  return (layer_ + within) / context_->shape.n_layers;
}

int64_t PrefillJob::slices_left() const {
  const int64_t blocks = (n_rows_ + Transformer::kRowBlock - 1) / Transformer::kRowBlock;
  const double layers = context_->shape.n_layers * (1 - fraction());
  return static_cast<int64_t>(std::ceil(layers * static_cast<double>(2 * blocks + 1)));
}

void PrefillJob::Logits(float* logits) {
  LEXICO_CHECK(done() && need_logits_);
  context_->transformer->Logits(hidden_.data() + (n_rows_ - 1) * context_->config().hidden_dim, 1,
                                logits, context_->transformer_scratch);
}

std::unique_ptr<SessionKv> PrefillJob::Commit() {
  LEXICO_CHECK(done());
  kv_->CommitPrefill(n_rows_);
  return std::move(kv_);
}

}  // namespace lexico::worker

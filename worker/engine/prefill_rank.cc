#include "worker/engine/prefill_rank.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/api/dense_attention.h"
#include "kernels/api/elementwise.h"
#include "kernels/api/merge_partials.h"
#include "kernels/api/rows.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/engine/page_attention.h"

namespace lexico::worker {

PrefillRows RowsOfPrefill(const SessionKv& kv, int64_t n_rows) {
  PrefillRows rows{.n_rows = n_rows, .n_window_rows = kv.window_rows()};
  rows.direct = kv.n_pages() > 0 && n_rows <= kDirectRowsMax;
  rows.n_history_rows = rows.n_window_rows + (rows.direct ? 0 : kv.n_sealed_tokens());
  return rows;
}

// What `take` gives for every array, in the order of the struct.
template <typename Take>
PrefillRank::Buffers PrefillRank::CutBuffers(const ForwardContext& context, int64_t n_history,
                                             int64_t n_rows, const Take& take) {
  const ModelConfig& config = context.config();
  const int64_t block = std::min(n_rows, context.transformer->row_block());
  const int64_t direct = std::min(n_rows, kDirectRowsMax);
  const size_t kv_bytes =
      (n_history + n_rows) * context.shape.row_dim() * kernels::DTypeBytes(context.rows_type());
  const bool converts = context.rows_type() != kernels::DType::kF32;
  Buffers to = {};
  const auto floats = [&](int64_t n) { return static_cast<float*>(take(n * sizeof(float))); };
  to.ids = static_cast<int32_t*>(take(n_rows * sizeof(int32_t)));
  to.positions = static_cast<int32_t*>(take(n_rows * sizeof(int32_t)));
  to.hidden = floats(n_rows * config.hidden_dim);
  to.k = static_cast<uint8_t*>(take(kv_bytes));
  to.v = static_cast<uint8_t*>(take(kv_bytes));
  to.q = floats(block * config.q_dim());
  to.attention = floats(block * config.q_dim());
  to.k_block = floats(converts ? block * config.kv_dim() : 0);
  to.v_block = floats(converts ? block * config.kv_dim() : 0);
  to.logits = floats(config.vocab_size);
  const int64_t n_layers = context.shape.n_layers;
  const int64_t n_flags = 2 * n_layers * BlocksOf(context, n_rows);
  to.non_finite = static_cast<int32_t*>(take(n_flags * sizeof(int32_t)));
  for (int part = 0; part < 2; ++part) {
    to.partial[part] = floats(direct * config.q_dim());
    to.partial_max[part] = floats(direct * config.n_heads);
    to.partial_sum[part] = floats(direct * config.n_heads);
  }
  const int64_t n_pages = (n_history + n_rows) / base::kPageTokens;  // at most
  to.coding.pages = static_cast<uint8_t**>(take(n_pages * sizeof(uint8_t*)));
  to.coding.n_non_finite = static_cast<int64_t*>(take(2 * n_layers * sizeof(int64_t)));
  to.coding.page_errors = floats(2 * n_layers * n_pages);
  return to;
}

int64_t PrefillRank::BlocksOf(const ForwardContext& context, int64_t n_rows) {
  const int64_t row_block = context.transformer->row_block();
  return (n_rows + row_block - 1) / row_block;
}

size_t PrefillRank::WorkBytes(const ForwardContext& context, int64_t n_history, int64_t n_rows) {
  size_t bytes = 0;
  CutBuffers(context, n_history, n_rows, [&](size_t n) {
    bytes += WorkArena::Piece::BytesFor<uint8_t>(static_cast<int64_t>(n));
    return static_cast<void*>(nullptr);
  });
  return bytes;
}

absl::Status PrefillRank::Begin(const SessionKv& kv) {
  const int64_t n_rows = rows_.n_rows;
  LEXICO_ASSIGN_OR_RETURN(
      memory_, context_->arena->Acquire(WorkBytes(*context_, rows_.n_history_rows, n_rows)));
  buffers_ = CutBuffers(*context_, rows_.n_history_rows, n_rows, [this](size_t n) {
    return static_cast<void*>(memory_.Take<uint8_t>(static_cast<int64_t>(n)));
  });
  std::vector<int32_t> positions(n_rows);
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(kv.n_tokens()));
  const std::span<const int32_t> ids = kv.pending().first(n_rows);
  context_->stream.Upload(buffers_.positions, positions.data(), positions.size() * sizeof(int32_t));
  context_->stream.Upload(buffers_.ids, ids.data(), ids.size_bytes());
  context_->transformer->Embed({buffers_.ids, ids.size()}, buffers_.hidden);
  context_->stream.Zero(buffers_.non_finite,
                        2 * context_->shape.n_layers * n_blocks() * sizeof(int32_t));
  coder_.emplace(context_, kv, buffers_.coding);
  return absl::OkStatus();
}

void PrefillRank::HoldBackForRows(int64_t row, int64_t n) const {
  const int64_t first_unsealed = rows_.n_history_rows - rows_.n_window_rows;
  const int64_t first = row - first_unsealed;
  coder_->HoldBack(first / base::kPageTokens,
                   (first + n + base::kPageTokens - 1) / base::kPageTokens);
}

uint8_t* PrefillRank::history_row(bool value, int64_t row) const {
  return (value ? buffers_.v : buffers_.k) +
         row * context_->shape.row_dim() * kernels::DTypeBytes(context_->rows_type());
}

kernels::TensorView PrefillRank::HistoryRows(bool value, int64_t row, int64_t n) const {
  const KvShape& shape = context_->shape;
  return {history_row(value, row), context_->rows_type(), {n, shape.n_kv_heads, shape.head_dim}};
}

kernels::DType PrefillRank::attention_type() const {
  return context_->on_device() ? context_->transformer->activation_type() : kernels::DType::kF32;
}

// F32 rows [row, row + n) as ops that know no other type write or read them: the rows themselves
// on a CPU, otherwise working memory. Keys and values have room beside each other.
float* PrefillRank::FloatRows(bool value, int64_t row, int64_t n) {
  if (!converts()) return reinterpret_cast<float*>(history_row(value, row));
  const int64_t n_values = n * context_->shape.row_dim();
  return context_->coder_scratch.Rows(2 * n_values, context_->stream) + (value ? n_values : 0);
}

// F32 rows behind each other into the type that the layer's rows are kept in.
void PrefillRank::KeepRows(bool value, int64_t row, const float* from, int64_t n) {
  const int64_t n_values = n * context_->shape.row_dim();
  kernels::Convert({from, {n_values}}, {history_row(value, row), context_->rows_type(), {n_values}},
                   context_->stream);
}

void PrefillRank::RebuildPages(const SessionKv& kv, int layer, int64_t first_page,
                               int64_t n_pages) {
  const KvLayout& layout = kv.layout();
  std::vector<const uint8_t*> blocks;
  for (const uint8_t* block : kv.page_blocks().subspan(first_page, n_pages)) {
    blocks.push_back(kv.pool().At(block, context_->rank));
  }
  const int64_t row = first_page * layout.page.page_tokens;
  const int64_t n_rows = n_pages * layout.page.page_tokens;
  for (const bool value : {false, true}) {
    float* const rows = FloatRows(value, row, n_rows);
    DecodePages(layout, context_->dictionaries_of(layer), value, layer, blocks, rows,
                context_->stream, context_->coder_scratch);
    if (converts()) KeepRows(value, row, rows, n_rows);
  }
  context_->stream.Synchronize();
}

void PrefillRank::KeepWindow(const SessionKv& kv, int layer) {
  const KvLayout& layout = kv.layout();
  const int64_t n_window = rows_.n_window_rows;
  const int64_t n_values = n_window * layout.shape.row_dim();
  if (n_values == 0) return;
  HoldBackForRows(rows_.n_history_rows - n_window, n_window);
  const kernels::DenseRows window = kv.window(layer, static_cast<int>(n_window), context_->rank);
  for (const bool value : {false, true}) {
    kernels::Convert(
        {value ? window.v : window.k, layout.shape.cache_type, {n_values}},
        {history_row(value, rows_.n_history_rows - n_window), context_->rows_type(), {n_values}},
        context_->stream);
  }
}

void PrefillRank::Inputs(int layer, int64_t row, int64_t n) {
  row_ = row;
  block_rows_ = n;
  const int64_t first = rows_.n_history_rows + row;
  HoldBackForRows(first, n);
  float* const k =
      converts() ? buffers_.k_block : reinterpret_cast<float*>(history_row(false, first));
  float* const v =
      converts() ? buffers_.v_block : reinterpret_cast<float*>(history_row(true, first));
  context_->transformer->AttentionInputs(
      layer, buffers_.hidden + row * context_->config().hidden_dim, n, buffers_.positions + row,
      buffers_.q, k, v, context_->transformer_scratch);
  RoundBlock(layer, k, v);
}

// Rounds the block's keys and values to the cache type and puts them behind the history.
void PrefillRank::RoundBlock(int layer, float* k, float* v) {
  const int64_t n_values = block_rows_ * context_->shape.row_dim();
  const int64_t block = layer * n_blocks() + row_ / context_->transformer->row_block();
  for (const bool value : {false, true}) {
    float* const rows = value ? v : k;
    kernels::RoundToType({rows, {n_values}}, context_->shape.cache_type,
                         buffers_.non_finite + 2 * block + (value ? 1 : 0), context_->stream);
    if (converts()) KeepRows(value, rows_.n_history_rows + row_, rows, block_rows_);
  }
  computed_ = block + 1;
}

absl::Status PrefillRank::FinishSlice(const SessionKv& kv) {
  const int64_t first = std::exchange(checked_, computed_);
  std::vector<int32_t> non_finite(2 * (computed_ - first));
  context_->stream.Synchronize();
  for (; n_spans_ > 0; --n_spans_) {
    const Span& span = spans_[n_spans_ - 1];
    attention_time_ += span.end.Since(span.begin);
  }
  context_->stream.Download(non_finite.data(), buffers_.non_finite + 2 * first,
                            non_finite.size() * sizeof(int32_t));
  const auto bad = std::ranges::find_if(non_finite, [](int32_t flag) { return flag != 0; });
  if (bad == non_finite.end()) return absl::OkStatus();
  const int64_t flag = bad - non_finite.begin();
  non_finite_ = flag % 2 == 0 ? KvKind::kKey : KvKind::kValue;
  const int64_t block = first + flag / 2;
  const int64_t row_block = context_->transformer->row_block();
  const int64_t row = block % n_blocks() * row_block;
  return absl::InternalError(
      fmt::format("a {} of layer {} at one of positions {} to {} is not finite as {}",
                  flag % 2 == 0 ? "key" : "value", block / n_blocks(), kv.n_tokens() + row,
                  kv.n_tokens() + std::min(row + row_block, rows_.n_rows) - 1,
                  kernels::DTypeName(context_->shape.cache_type)));
}

void PrefillRank::Attend(const SessionKv& kv, int layer, int64_t first, int64_t count) {
  const absl::Time begin = context_->clock->Now();
  if (n_spans_ == spans_.size()) {
    spans_.push_back({kernels::Event(context_->stream), kernels::Event(context_->stream)});
  }
  Span& span = spans_[n_spans_];
  span.begin.Record(context_->stream);
  if (rows_.direct) {
    AttendDirectly(kv, layer, first, count);
  } else {
    AttendRows(first, count);
  }
  span.end.Record(context_->stream);
  if (context_->on_device()) {
    ++n_spans_;
  } else {
    attention_time_ += context_->clock->Now() - begin;
  }
}

// Rows of the block's attention. The direct way leaves F32.
kernels::MutableTensorView PrefillRank::AttentionRows(int64_t first, int64_t n) const {
  const int64_t width = context_->config().q_dim();
  const kernels::DType type = rows_.direct ? kernels::DType::kF32 : attention_type();
  return {static_cast<uint8_t*>(buffers_.attention) + first * width * kernels::DTypeBytes(type),
          type,
          {n, width}};
}

void PrefillRank::AttendRows(int64_t first, int64_t count) {
  const ModelConfig& config = context_->config();
  const int64_t position = rows_.n_history_rows + row_ + first;  // among the exact rows
  const int64_t n_keys = position + count;
  const kernels::DType cache_type = context_->shape.cache_type;
  const kernels::MutableTensorView out = AttentionRows(first, count);
  kernels::PrefillAttention(
      {.q = {buffers_.q + first * config.q_dim(), {count, config.n_heads, config.head_dim}},
       .k = HistoryRows(false, 0, n_keys),
       .v = HistoryRows(true, 0, n_keys),
       .first_position = position,
       .scale = context_->attention_scale(),
       // A CPU has products of BF16 only.
       .allow_bf16 = cache_type == kernels::DType::kBF16 ||
                     (context_->on_device() && cache_type == kernels::DType::kF16),
       .out = {const_cast<void*>(out.data), out.dtype, {count, config.n_heads, config.head_dim}}},
      context_->stream);
}

void PrefillRank::AttendDirectly(const SessionKv& kv, int layer, int64_t first, int64_t count) {
  const ModelConfig& config = context_->config();
  const float* q = buffers_.q + first * config.q_dim();
  const auto part = [&](int i) {
    return PartialRows(context_->shape, config.n_heads, first, count, buffers_.partial[i],
                       buffers_.partial_max[i], buffers_.partial_sum[i]);
  };
  const PartialViews over_pages = part(0);
  const PartialViews over_rows = part(1);
  const std::vector<const SessionKv*> sessions(count, &kv);
  StepArrays& arrays = context_->direct_arrays;
  context_->stream.Synchronize();  // the copy of the last call has happened
  arrays.Begin(SessionPages::BytesFor(sessions) + StepArrays::BytesFor<kernels::DenseRows>(count));
  SessionPages pages;
  pages.Collect(sessions, context_->rank, arrays);
  const StepArray<kernels::DenseRows> rows = arrays.Add<kernels::DenseRows>(count);
  for (int64_t i = 0; i < count; ++i) {
    rows.host[i] = {
        .k = buffers_.k, .v = buffers_.v, .n_tokens = rows_.n_history_rows + row_ + first + i + 1};
  }
  arrays.Upload();
  AttendToPages(*context_, kv.layout(), layer, pages, q, over_pages);
  kernels::DenseAttention({.q = {q, {count, config.n_heads, config.head_dim}},
                           .rows = rows.device,
                           .rows_max = rows.host[count - 1].n_tokens,
                           .n_kv_heads = config.n_kv_heads,
                           .kv_type = context_->rows_type(),
                           .scale = context_->attention_scale(),
                           .out = over_rows.out,
                           .max_score = over_rows.max_score,
                           .sum_exp = over_rows.sum_exp},
                          context_->stream);
  const kernels::AttentionPart parts[] = {
      {over_pages.out, over_pages.max_score, over_pages.sum_exp},
      {over_rows.out, over_rows.max_score, over_rows.sum_exp}};
  kernels::MergePartials(parts,
                         {static_cast<float*>(buffers_.attention) + first * config.q_dim(),
                          {count, config.n_heads, config.head_dim}},
                         context_->stream);
}

void PrefillRank::Outputs(int layer, int64_t first) {
  context_->transformer->AttentionOutputs(
      layer, AttentionRows(first, block_rows_ - first),
      buffers_.hidden + (row_ + first) * context_->config().hidden_dim,
      context_->transformer_scratch);
}

void PrefillRank::Code(const SessionKv& kv, int layer, int64_t first_page, int64_t n_pages) {
  const int page_tokens = kv.layout().page.page_tokens;
  // Rows that are not in sealed pages yet: the old window, then the new ones.
  const int64_t first_unsealed = rows_.n_history_rows - rows_.n_window_rows;
  const int64_t row = first_unsealed + first_page * page_tokens;
  const int64_t n_rows = n_pages * page_tokens;
  coder_->Code(kv, layer, first_page, n_pages, HistoryRows(false, row, n_rows),
               HistoryRows(true, row, n_rows));
}

void PrefillRank::EndLayer(const SessionKv& kv, int layer, int64_t n_sealed) {
  coder_->EndLayer();
  const int64_t first = rows_.n_history_rows - rows_.n_window_rows + n_sealed;
  const int64_t window = rows_.n_window_rows + rows_.n_rows - n_sealed;
  kv.ReplaceWindow(context_->rank, layer, HistoryRows(false, first, window),
                   HistoryRows(true, first, window), context_->stream);
}

const float* PrefillRank::Logits() {
  context_->transformer->Logits(
      buffers_.hidden + (rows_.n_rows - 1) * context_->config().hidden_dim, 1, buffers_.logits,
      context_->transformer_scratch);
  return buffers_.logits;
}

}  // namespace lexico::worker

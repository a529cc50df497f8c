#include "worker/engine/prefill.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/api/dense_attention.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/elementwise.h"
#include "kernels/api/merge_partials.h"
#include "kernels/api/rows.h"
#include "proto/base/check.h"
#include "proto/base/status.h"
#include "worker/engine/page_attention.h"

namespace lexico::worker {
namespace {

// Batches half or double towards kSliceTime.
int64_t AdaptBatch(int64_t batch, absl::Duration took) {
  if (took > 2 * kSliceTime) return std::max<int64_t>(batch / 2, 1);
  if (took < kSliceTime / 2) return std::min<int64_t>(batch * 2, 1024);
  return batch;
}

bool AttendsDirectly(const SessionKv& kv, int64_t n_rows) {
  return kv.n_pages() > 0 && n_rows <= kDirectRowsMax;
}

// Exact rows in front of the new ones.
int64_t HistoryRowsOf(const SessionKv& kv, int64_t n_rows) {
  return kv.window_rows() + (AttendsDirectly(kv, n_rows) ? 0 : kv.n_sealed_tokens());
}

}  // namespace

// What `take` gives for every array, in the order of the struct.
template <typename Take>
PrefillJob::Buffers PrefillJob::CutBuffers(const ForwardContext& context, int64_t n_history,
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
  to.non_finite = static_cast<int32_t*>(take(2 * sizeof(int32_t)));
  for (int part = 0; part < 2; ++part) {
    to.partial[part] = floats(direct * config.q_dim());
    to.partial_max[part] = floats(direct * config.n_heads);
    to.partial_sum[part] = floats(direct * config.n_heads);
  }
  return to;
}

size_t PrefillJob::WorkBytes(const ForwardContext& context, int64_t n_history, int64_t n_rows) {
  size_t bytes = 0;
  CutBuffers(context, n_history, n_rows, [&](size_t n) {
    bytes += WorkArena::Piece::BytesFor<uint8_t>(static_cast<int64_t>(n));
    return static_cast<void*>(nullptr);
  });
  return bytes;
}

bool PrefillJob::HasWorkMemory(const ForwardContext& context, const SessionKv& kv, int64_t n_new) {
  const int64_t n_rows = std::max<int64_t>(1, std::ssize(kv.pending()) + n_new);
  return context.arena->Fits(WorkBytes(context, HistoryRowsOf(kv, n_rows), n_rows));
}

absl::StatusOr<std::unique_ptr<PrefillJob>> PrefillJob::Create(ForwardContext* context,
                                                               std::unique_ptr<SessionKv> fork,
                                                               bool need_logits) {
  const auto n_rows = static_cast<int64_t>(fork->pending().size());
  LEXICO_CHECK_GT(n_rows, int64_t{0});
  if (const absl::Status reserved = fork->ReservePages(n_rows); !reserved.ok()) return reserved;
  std::unique_ptr<PrefillJob> job(new PrefillJob(context, std::move(fork), need_logits));
  if (const absl::Status begun = job->Begin(); !begun.ok()) return begun;
  return job;
}

PrefillJob::PrefillJob(ForwardContext* context, std::unique_ptr<SessionKv> fork, bool need_logits)
    : context_(context),
      kv_(std::move(fork)),
      need_logits_(need_logits),
      n_rows_(static_cast<int64_t>(kv_->pending().size())),
      n_window_rows_(kv_->window_rows()),
      direct_(AttendsDirectly(*kv_, n_rows_)),
      n_history_rows_(HistoryRowsOf(*kv_, n_rows_)) {}

absl::Status PrefillJob::Begin() {
  LEXICO_ASSIGN_OR_RETURN(memory_,
                          context_->arena->Acquire(WorkBytes(*context_, n_history_rows_, n_rows_)));
  buffers_ = CutBuffers(*context_, n_history_rows_, n_rows_, [this](size_t n) {
    return static_cast<void*>(memory_.Take<uint8_t>(static_cast<int64_t>(n)));
  });
  std::vector<int32_t> positions(n_rows_);
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(kv_->n_tokens()));
  const std::span<const int32_t> ids = kv_->pending();
  context_->stream.Upload(buffers_.positions, positions.data(), positions.size() * sizeof(int32_t));
  context_->stream.Upload(buffers_.ids, ids.data(), ids.size_bytes());
  context_->transformer->Embed({buffers_.ids, ids.size()}, buffers_.hidden);
  BeginLayer();
  return absl::OkStatus();
}

void PrefillJob::BeginLayer() {
  phase_ = n_history_rows_ > 0 ? Phase::kHistory : Phase::kInputs;
  history_pages_ = 0;
  row_ = 0;
  attended_ = 0;
  coded_pages_ = 0;
}

uint8_t* PrefillJob::history_row(bool value, int64_t row) const {
  return (value ? buffers_.v : buffers_.k) +
         row * context_->shape.row_dim() * kernels::DTypeBytes(context_->rows_type());
}

kernels::TensorView PrefillJob::HistoryRows(bool value, int64_t row, int64_t n) const {
  const KvShape& shape = context_->shape;
  return {history_row(value, row), context_->rows_type(), {n, shape.n_kv_heads, shape.head_dim}};
}

kernels::DType PrefillJob::attention_type() const {
  return context_->on_device() ? context_->transformer->activation_type() : kernels::DType::kF32;
}

int64_t PrefillJob::block_rows() const {
  return std::clamp<int64_t>(n_rows_ - row_, 1, context_->transformer->row_block());
}

absl::Status PrefillJob::RunSlice() {
  LEXICO_CHECK(!done());
  absl::Status status;
  double work = 0;
  do {
    work += PhaseWork();
    status = RunPhase();
  } while (status.ok() && !done() && work + PhaseWork() <= 1);
  context_->stream.Synchronize();
  return status;
}

double PrefillJob::PhaseWork() const {
  const auto rows = static_cast<double>(block_rows());
  const double share = rows / static_cast<double>(context_->transformer->row_block());
  switch (phase_) {
    case Phase::kHistory:
      return !direct_ && kv_->n_pages() > 0 ? 1 : share;
    case Phase::kInputs:
      return share;
    case Phase::kAttention:
      return std::max(share, std::min(1.0, AttentionFlop() * rows / slice_flop()));
    case Phase::kCoding:
      return kv_->n_reserved_pages() > 0 ? 1 : share;
  }
  LEXICO_UNREACHABLE();
}

// Of one row of the block.
double PrefillJob::AttentionFlop() const {
  const ModelConfig& config = context_->config();
  const int64_t n_pages_rows = direct_ ? kv_->n_sealed_tokens() : 0;
  const auto keys = static_cast<double>(n_pages_rows + n_history_rows_ + row_ + block_rows());
  return 4.0 * config.head_dim * config.n_heads * keys;
}

double PrefillJob::slice_flop() const {
  return context_->on_device() ? kDeviceSliceFlop : kSliceFlop;
}

absl::Status PrefillJob::RunPhase() {
  switch (phase_) {
    case Phase::kHistory: {
      const absl::Time begin = context_->clock->Now();
      RunHistory();
      context_->stream.Synchronize();
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

// F32 rows [row, row + n) as ops that know no other type write or read them: the rows themselves
// on a CPU, otherwise working memory. Keys and values have room beside each other.
float* PrefillJob::FloatRows(bool value, int64_t row, int64_t n) {
  if (!converts()) return reinterpret_cast<float*>(history_row(value, row));
  const int64_t n_values = n * context_->shape.row_dim();
  return context_->coder_scratch.Rows(2 * n_values, context_->stream) + (value ? n_values : 0);
}

void PrefillJob::RunHistory() {
  const KvLayout& layout = kv_->layout();
  const int64_t n_pages = direct_ ? 0 : kv_->n_pages();
  const int64_t batch =
      std::min({history_batch_, context_->batch_pages_max(), n_pages - history_pages_});
  if (batch > 0) {
    const absl::Time begin = context_->clock->Now();
    const auto blocks = kv_->page_blocks().subspan(history_pages_, batch);
    const int64_t row = history_pages_ * layout.page.page_tokens;
    const int64_t n_rows = batch * layout.page.page_tokens;
    for (const bool value : {false, true}) {
      float* const rows = FloatRows(value, row, n_rows);
      DecodePages(layout, context_->dictionaries_of(layer_), value, layer_, blocks, rows,
                  context_->stream, context_->coder_scratch);
      if (converts()) KeepRows(value, row, rows, n_rows);
    }
    context_->stream.Synchronize();
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
                       {history_row(value, first), context_->rows_type(), {n_values}},
                       context_->stream);
    }
  }
  phase_ = Phase::kInputs;
}

// F32 rows behind each other into the type that the layer's rows are kept in.
void PrefillJob::KeepRows(bool value, int64_t row, const float* from, int64_t n) {
  const int64_t n_values = n * context_->shape.row_dim();
  kernels::Convert({from, {n_values}}, {history_row(value, row), context_->rows_type(), {n_values}},
                   context_->stream);
}

absl::Status PrefillJob::RunInputs() {
  const int64_t rows = block_rows();
  const int64_t first = n_history_rows_ + row_;
  float* const k =
      converts() ? buffers_.k_block : reinterpret_cast<float*>(history_row(false, first));
  float* const v =
      converts() ? buffers_.v_block : reinterpret_cast<float*>(history_row(true, first));
  context_->transformer->AttentionInputs(
      layer_, buffers_.hidden + row_ * context_->config().hidden_dim, rows,
      buffers_.positions + row_, buffers_.q, k, v, context_->transformer_scratch);
  LEXICO_RETURN_IF_ERROR(RoundBlock(k, v));
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

// Rounds the block's keys and values to the cache type and puts them behind the history.
absl::Status PrefillJob::RoundBlock(float* k, float* v) {
  const int64_t n_values = block_rows() * context_->shape.row_dim();
  const kernels::DType cache_type = context_->shape.cache_type;
  context_->stream.Zero(buffers_.non_finite, 2 * sizeof(int32_t));
  for (const bool value : {false, true}) {
    float* const rows = value ? v : k;
    kernels::RoundToType({rows, {n_values}}, cache_type, buffers_.non_finite + (value ? 1 : 0),
                         context_->stream);
    if (converts()) KeepRows(value, n_history_rows_ + row_, rows, block_rows());
  }
  int32_t non_finite[2] = {};
  context_->stream.Download(non_finite, buffers_.non_finite, sizeof(non_finite));
  if (non_finite[0] == 0 && non_finite[1] == 0) return absl::OkStatus();
  non_finite_ = non_finite[0] != 0 ? KvKind::kKey : KvKind::kValue;
  const int64_t position = kv_->n_tokens() + row_;
  return absl::InternalError(
      fmt::format("a {} of layer {} at one of positions {} to {} is not finite as {}",
                  non_finite[0] != 0 ? "key" : "value", layer_, position,
                  position + block_rows() - 1, kernels::DTypeName(cache_type)));
}

void PrefillJob::RunAttention() {
  const int64_t rows = block_rows();
  const ModelConfig& config = context_->config();
  const auto blocks = static_cast<int64_t>(slice_flop() / AttentionFlop()) / kQueryBlock;
  const int64_t count = std::min(rows - attended_, std::max<int64_t>(blocks, 1) * kQueryBlock);
  const absl::Time begin = context_->clock->Now();
  if (direct_) {
    AttendDirectly(attended_, count);
  } else {
    AttendRows(attended_, count);
  }
  context_->stream.Synchronize();
  attention_time_ += context_->clock->Now() - begin;
  attended_ += count;
  if (attended_ < rows) return;
  const int64_t first = is_last_layer() ? rows - 1 : 0;
  context_->transformer->AttentionOutputs(layer_, AttentionRows(first, rows - first),
                                          buffers_.hidden + (row_ + first) * config.hidden_dim,
                                          context_->transformer_scratch);
  FinishBlock();
}

// Rows of the block's attention. The direct way leaves F32.
kernels::MutableTensorView PrefillJob::AttentionRows(int64_t first, int64_t n) const {
  const int64_t width = context_->config().q_dim();
  const kernels::DType type = direct_ ? kernels::DType::kF32 : attention_type();
  return {static_cast<uint8_t*>(buffers_.attention) + first * width * kernels::DTypeBytes(type),
          type,
          {n, width}};
}

void PrefillJob::AttendRows(int64_t first, int64_t count) {
  const ModelConfig& config = context_->config();
  const int64_t position = n_history_rows_ + row_ + first;  // among the exact rows
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

void PrefillJob::AttendDirectly(int64_t first, int64_t count) {
  const ModelConfig& config = context_->config();
  const float* q = buffers_.q + first * config.q_dim();
  const auto part = [&](int i) {
    return PartialRows(context_->shape, config.n_heads, first, count, buffers_.partial[i],
                       buffers_.partial_max[i], buffers_.partial_sum[i]);
  };
  const PartialViews over_pages = part(0);
  const PartialViews over_rows = part(1);
  const std::vector<const SessionKv*> sessions(count, kv_.get());
  StepArrays& arrays = context_->direct_arrays;
  arrays.Begin(SessionPages::BytesFor(sessions) + StepArrays::BytesFor<kernels::DenseRows>(count));
  SessionPages pages;
  pages.Collect(sessions, arrays);
  const StepArray<kernels::DenseRows> rows = arrays.Add<kernels::DenseRows>(count);
  for (int64_t i = 0; i < count; ++i) {
    rows.host[i] = {
        .k = buffers_.k, .v = buffers_.v, .n_tokens = n_history_rows_ + row_ + first + i + 1};
  }
  arrays.Upload();
  AttendToPages(*context_, kv_->layout(), layer_, pages, q, over_pages);
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
  const int64_t batch =
      std::min({coding_batch_, context_->batch_pages_max(), n_pages - coded_pages_});
  if (batch > 0 && coding_.k == nullptr && !layout.profile.is_dense()) {
    const absl::Time begin = context_->clock->Now();
    coding_ = DictionariesForCoding();
    coding_time_ += context_->clock->Now() - begin;
    return absl::OkStatus();
  }
  if (batch > 0) {
    const absl::Time begin = context_->clock->Now();
    const int64_t row = first_unsealed + coded_pages_ * layout.page.page_tokens;
    const int64_t n_rows = batch * layout.page.page_tokens;
    float* const rows[] = {FloatRows(false, row, n_rows), FloatRows(true, row, n_rows)};
    if (converts()) {
      for (const bool value : {false, true}) {
        kernels::Convert(HistoryRows(value, row, n_rows),
                         {rows[value], {n_rows * layout.shape.row_dim()}}, context_->stream);
      }
    }
    const absl::Status coded =
        EncodePages(layout, coding_, rows[0], rows[1], layer_,
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
  kv_->ReplaceWindow(layer_, HistoryRows(false, first_unsealed + n_sealed, window),
                     HistoryRows(true, first_unsealed + n_sealed, window), context_->stream);
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
  const int64_t row_block = context_->transformer->row_block();
  const int64_t blocks = (n_rows_ + row_block - 1) / row_block;
  const double layers = context_->shape.n_layers * (1 - fraction());
  // Several phases of a short prompt are one slice.
  const double share = std::min(1.0, static_cast<double>(n_rows_) / static_cast<double>(row_block));
  return static_cast<int64_t>(std::ceil(layers * share * static_cast<double>(2 * blocks + 1)));
}

void PrefillJob::Logits(float* logits) {
  LEXICO_CHECK(done() && need_logits_);
  const ModelConfig& config = context_->config();
  context_->transformer->Logits(buffers_.hidden + (n_rows_ - 1) * config.hidden_dim, 1,
                                buffers_.logits, context_->transformer_scratch);
  context_->stream.Download(logits, buffers_.logits, config.vocab_size * sizeof(float));
}

std::unique_ptr<SessionKv> PrefillJob::Commit() {
  LEXICO_CHECK(done());
  kv_->CommitPrefill(n_rows_);
  return std::move(kv_);
}

}  // namespace lexico::worker

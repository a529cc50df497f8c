#include "worker/engine/decode_rank.h"

#include <algorithm>

#include "kernels/api/merge_partials.h"
#include "kernels/api/rows.h"
#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::worker {

size_t DecodeRank::BytesOfArrays(int64_t n, int64_t n_pages) const {
  const int64_t n_layers = context_->config().n_layers;
  return 2 * StepArrays::BytesFor<int32_t>(n) + StepArrays::BytesFor<kernels::RowDraw>(n) +
         2 * StepArrays::BytesFor<void*>(n_layers * n) +
         StepArrays::BytesFor<kernels::DenseRows>(n_layers * n) +
         // A group's tables end at whole 256 bytes, and each may be a group.
         2 * n * 256 + StepArrays::BytesFor<void*>(n_pages);
}

size_t DecodeRank::BytesOfDevice(int64_t n, int64_t n_pages) const {
  int64_t floats = 0;
  CutBuffers(nullptr, n, &floats);
  return BytesOfArrays(n, n_pages) + floats * sizeof(float);
}

absl::Status DecodeRank::Reserve(int64_t n, int64_t n_pages) {
  LEXICO_RETURN_IF_ERROR(arrays_.Reserve(BytesOfArrays(n, n_pages)));
  int64_t floats = 0;
  CutBuffers(nullptr, n, &floats);
  LEXICO_RETURN_IF_ERROR(memory_.Reserve(floats * sizeof(float), context_->stream));
  const size_t results = CutResults(nullptr, n, kernels::kTopLogitsMax).bytes;
  LEXICO_ASSIGN_OR_RETURN(results_, kernels::HostBuffer::Allocate(results, context_->stream));
  LEXICO_ASSIGN_OR_RETURN(
      row_logits_, kernels::HostBuffer::Allocate(context_->config().vocab_size * sizeof(float),
                                                 context_->stream));
  return absl::OkStatus();
}

DecodeRank::Buffers DecodeRank::CutBuffers(float* base, int64_t n, int64_t* floats) const {
  constexpr int64_t kAligned = 256 / sizeof(float);
  const ModelConfig& config = context_->config();
  *floats = 0;
  const auto take = [&](int64_t width) {
    float* const array = base == nullptr ? nullptr : base + *floats;
    *floats += (n * width + kAligned - 1) / kAligned * kAligned;
    return array;
  };
  Buffers buffers = {};
  buffers.hidden = take(config.hidden_dim);
  buffers.q = take(config.q_dim());
  buffers.k = take(config.kv_dim());
  buffers.v = take(config.kv_dim());
  buffers.attention = take(config.q_dim());
  buffers.logits = take(config.vocab_size);
  for (int part = 0; part < 2; ++part) {
    buffers.partial[part] = take(config.q_dim());
    buffers.partial_max[part] = take(config.n_heads);
    buffers.partial_sum[part] = take(config.n_heads);
  }
  char* const results = reinterpret_cast<char*>(base == nullptr ? nullptr : base + *floats);
  buffers.results = CutResults(results, n, n_top_);
  *floats += CutResults(nullptr, n, kernels::kTopLogitsMax).bytes / sizeof(float);
  return buffers;
}

DecodeRank::Results DecodeRank::CutResults(char* base, int64_t n, int n_top) const {
  Results results = {};
  const auto take = [&]<typename T>(T*& array, int64_t count) {
    array = base == nullptr ? nullptr : reinterpret_cast<T*>(base + results.bytes);
    results.bytes += StepArrays::BytesFor<T>(count);
  };
  take(results.non_finite, context_->config().n_layers * n);
  if (finds_top()) {
    take(results.top, n * n_top);
    take(results.top_ids, n * n_top);
    take(results.summaries, n);
  }
  return results;
}

void DecodeRank::FindGroups(std::span<SessionKv* const> sessions) {
  groups_.clear();
  for (int64_t i = 0; i < n_; ++i) {
    const KvLayout& layout = sessions[i]->layout();
    if (groups_.empty() || *groups_.back().layout != layout) {
      groups_.push_back({.layout = &layout, .first = i, .n = 0});
    }
    ++groups_.back().n;
  }
}

void DecodeRank::FillArrays(std::span<SessionKv* const> sessions,
                            std::span<const kernels::RowDraw> draws) {
  const int64_t n_layers = context_->config().n_layers;
  size_t bytes = 2 * StepArrays::BytesFor<int32_t>(n_) +
                 StepArrays::BytesFor<kernels::RowDraw>(n_) +
                 2 * StepArrays::BytesFor<void*>(n_layers * n_) +
                 StepArrays::BytesFor<kernels::DenseRows>(n_layers * n_);
  for (const Group& group : groups_) {
    bytes += SessionPages::BytesFor(sessions.subspan(group.first, group.n));
  }
  arrays_.Begin(bytes);
  ids_ = arrays_.Add<int32_t>(n_);
  positions_ = arrays_.Add<int32_t>(n_);
  draws_ = arrays_.Add<kernels::RowDraw>(n_);
  std::ranges::copy(draws, draws_.host);
  k_rows_ = arrays_.Add<void*>(n_layers * n_);
  v_rows_ = arrays_.Add<void*>(n_layers * n_);
  windows_ = arrays_.Add<kernels::DenseRows>(n_layers * n_);
  for (Group& group : groups_) {
    group.pages.Collect(sessions.subspan(group.first, group.n), context_->rank, arrays_);
  }
  for (int64_t i = 0; i < n_; ++i) {
    const SessionKv& session = *sessions[i];
    LEXICO_CHECK(!session.pending().empty());
    ids_.host[i] = session.pending()[0];
    positions_.host[i] = static_cast<int32_t>(session.n_tokens());
    const int row = session.window_rows();
    for (int layer = 0; layer < n_layers; ++layer) {
      const int64_t at = layer * n_ + i;
      k_rows_.host[at] = session.window_row(layer, false, row, context_->rank);
      v_rows_.host[at] = session.window_row(layer, true, row, context_->rank);
      windows_.host[at] = session.window(layer, row + 1, context_->rank);
    }
  }
}

StepStructure DecodeRank::Structure() const {
  StepStructure structure{.n_top = n_top_};
  for (const Group& group : groups_) {
    structure.groups.push_back({.layout = *group.layout, .page_begin = group.pages.begin});
  }
  return structure;
}

void DecodeRank::Run(std::span<SessionKv* const> sessions, std::span<const kernels::RowDraw> draws,
                     int n_top) {
  LEXICO_CHECK_EQ(draws.size(), sessions.size());
  n_ = static_cast<int64_t>(sessions.size());
  n_top_ = n_top;
  if (n_ == 0) return;
  attention_time_ = absl::ZeroDuration();
  FindGroups(sessions);
  FillArrays(sessions, draws);
  int64_t floats = 0;
  CutBuffers(nullptr, n_, &floats);
  buffers_ = CutBuffers(memory_.Get<float>(floats, context_->stream), n_, &floats);
  const size_t bytes = buffers_.results.bytes;
  if (results_.bytes() < bytes) {
    LEXICO_CHECK(!context_->on_device());
    auto larger = kernels::HostBuffer::Allocate(bytes, context_->stream);
    LEXICO_CHECK(larger.ok());
    results_ = *std::move(larger);
  }
  launch_ = graphs_.Enqueue(Structure(), [this] { Enqueue(); });
  ReadResults();
}

void DecodeRank::Enqueue() {
  const ModelConfig& config = context_->config();
  arrays_.Upload();
  context_->stream.Zero(buffers_.results.non_finite, config.n_layers * n_ * sizeof(int32_t));
  context_->transformer->Embed({ids_.device, static_cast<size_t>(n_)}, buffers_.hidden);
  for (int layer = 0; layer < config.n_layers; ++layer) RunLayer(layer);
  context_->transformer->Logits(buffers_.hidden, n_, buffers_.logits,
                                context_->transformer_scratch);
  if (finds_top()) FindTop();
  context_->stream.DownloadAsync(results_.as<char>(), buffers_.results.non_finite,
                                 buffers_.results.bytes);
}

void DecodeRank::RunLayer(int layer) {
  const ModelConfig& config = context_->config();
  const kernels::StoreRowsArgs rows = {.k_rows = k_rows_.device + layer * n_,
                                       .v_rows = v_rows_.device + layer * n_,
                                       .type = context_->shape.cache_type,
                                       .non_finite = buffers_.results.non_finite + layer * n_};
  context_->transformer->AttentionInputs(layer, buffers_.hidden, n_, positions_.device, buffers_.q,
                                         buffers_.k, buffers_.v, context_->transformer_scratch,
                                         &rows);
  const absl::Time attention_begin = context_->clock->Now();
  for (const Group& group : groups_) Attend(group, layer);
  if (!context_->on_device()) attention_time_ += context_->clock->Now() - attention_begin;
  context_->transformer->AttentionOutputs(
      layer, {buffers_.attention, context_->transformer->activation_type(), {n_, config.q_dim()}},
      buffers_.hidden, context_->transformer_scratch);
}

void DecodeRank::Attend(const Group& group, int layer) {
  const ModelConfig& config = context_->config();
  const float* q = buffers_.q + group.first * config.q_dim();
  const auto part = [&](int i) {
    return PartialRows(context_->shape, config.n_heads, group.first, group.n, buffers_.partial[i],
                       buffers_.partial_max[i], buffers_.partial_sum[i]);
  };
  const kernels::DType out_type = context_->transformer->activation_type();
  const kernels::MutableTensorView out(
      reinterpret_cast<char*>(buffers_.attention) +
          group.first * config.q_dim() * kernels::DTypeBytes(out_type),
      out_type, {group.n, config.n_heads, config.head_dim});
  const bool dense = group.layout->profile.is_dense();
  const PartialViews rows = part(0);
  // Dense pages and the window are one call; beside codes the window has a stream of its own.
  const kernels::Stream& stream = dense ? context_->stream : context_->window_stream;
  if (!dense) stream.WaitFor(context_->stream);
  kernels::DenseAttention(
      {.q = {q, {group.n, config.n_heads, config.head_dim}},
       .rows = windows_.device + layer * n_ + group.first,
       .rows_max = group.layout->window_capacity(),
       .pages = dense ? group.pages.blocks.device : nullptr,
       .page_begin = dense ? group.pages.begin.data() : nullptr,
       .n_pages = dense ? group.pages.n_pages.device : nullptr,
       .page_offset = dense ? static_cast<int64_t>(group.layout->page_offset(layer)) : 0,
       .layout = group.layout->page,
       .n_kv_heads = config.n_kv_heads,
       .kv_type = context_->shape.cache_type,
       .scale = context_->attention_scale(),
       .out = rows.out,
       .max_score = rows.max_score,
       .sum_exp = rows.sum_exp},
      stream);
  const PartialViews codes = part(1);
  if (!dense) {
    AttendToPages(*context_, *group.layout, layer, group.pages, q, codes);
    context_->stream.WaitFor(stream);
  }
  const kernels::AttentionPart parts[] = {{rows.out, rows.max_score, rows.sum_exp},
                                          {codes.out, codes.max_score, codes.sum_exp}};
  kernels::MergePartials(std::span(parts).first(dense ? 1 : 2), out, context_->stream);
}

void DecodeRank::FindTop() {
  kernels::TopLogits({.logits = buffers_.logits,
                      .n_rows = n_,
                      .n_vocab = context_->config().vocab_size,
                      .n_top = n_top_,
                      .top = buffers_.results.top,
                      .top_ids = buffers_.results.top_ids,
                      .draws = draws_.device,
                      .summaries = buffers_.results.summaries},
                     context_->stream);
}

void DecodeRank::ReadResults() {
  const ModelConfig& config = context_->config();
  context_->stream.Synchronize();
  const Results results = CutResults(results_.as<char>(), n_, n_top_);
  non_finite_.assign(n_, std::nullopt);
  for (int64_t at = 0; at < n_ * config.n_layers; ++at) {
    std::optional<KvKind>& bad = non_finite_[at % n_];
    const int32_t flags = results.non_finite[at];
    if (flags == 0 || bad.has_value()) continue;
    bad = (flags & kernels::kNonFiniteKey) != 0 ? KvKind::kKey : KvKind::kValue;
  }
}

std::span<const float> DecodeRank::logits(int64_t i) const {
  const int64_t n_vocab = context_->config().vocab_size;
  const float* row = buffers_.logits + i * n_vocab;
  if (context_->on_device()) {
    context_->stream.DownloadAsync(row_logits_.as<float>(), row, n_vocab * sizeof(float));
    context_->stream.Synchronize();
    row = row_logits_.as<float>();
  }
  return {row, static_cast<size_t>(n_vocab)};
}

TopRow DecodeRank::top(int64_t i) const {
  LEXICO_CHECK(finds_top());
  const Results results = CutResults(results_.as<char>(), n_, n_top_);
  const auto n = static_cast<size_t>(n_top_);
  return {.logits = {results.top + i * n_top_, n},
          .ids = {results.top_ids + i * n_top_, n},
          .summary = results.summaries[i],
          .n_vocab = context_->config().vocab_size};
}

}  // namespace lexico::worker

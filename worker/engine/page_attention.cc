#include "worker/engine/page_attention.h"

#include <algorithm>
#include <bit>

#include "kernels/api/dense_attention.h"
#include "kernels/api/sparse_attention.h"
#include "proto/base/check.h"

namespace lexico::worker {
namespace {

int64_t CountPlaces(std::span<const SessionKv* const> sessions) {
  int64_t n = 0;
  for (const SessionKv* session : sessions) n += SessionPages::PlaceOf(session->n_pages());
  return n;
}

}  // namespace

PartialViews PartialRows(const KvShape& shape, int n_heads, int64_t first, int64_t count,
                         float* out, float* max_score, float* sum_exp) {
  const int64_t width = static_cast<int64_t>(n_heads) * shape.head_dim;
  return {.out = {out + first * width, {count, n_heads, shape.head_dim}},
          .max_score = {max_score + first * n_heads, {count, n_heads}},
          .sum_exp = {sum_exp + first * n_heads, {count, n_heads}}};
}

int64_t SessionPages::PlaceOf(int64_t n) {
  if (n == 0) return 0;
  const int64_t unit = std::max<int64_t>(8, std::bit_floor(static_cast<uint64_t>(n)) / 8);
  return (n + unit - 1) / unit * unit;
}

size_t SessionPages::BytesFor(std::span<const SessionKv* const> sessions) {
  return StepArrays::BytesFor<const uint8_t*>(CountPlaces(sessions)) +
         StepArrays::BytesFor<int32_t>(std::ssize(sessions));
}

void SessionPages::Collect(std::span<const SessionKv* const> sessions, int rank,
                           StepArrays& arrays) {
  blocks = arrays.Add<const uint8_t*>(CountPlaces(sessions));
  n_pages = arrays.Add<int32_t>(std::ssize(sessions));
  begin.assign(1, 0);
  for (const SessionKv* session : sessions) {
    const PagePool& pool = session->pool();
    std::ranges::transform(session->page_blocks(), blocks.host + begin.back(),
                           [&](const uint8_t* block) { return pool.At(block, rank); });
    n_pages.host[begin.size() - 1] = static_cast<int32_t>(session->n_pages());
    begin.push_back(begin.back() + PlaceOf(session->n_pages()));
  }
}

void AttendToPages(const ForwardContext& context, const KvLayout& layout, int layer,
                   const SessionPages& pages, const float* q, const PartialViews& partial) {
  const auto n = static_cast<int64_t>(pages.begin.size()) - 1;
  if (n == 0) return;
  const kernels::TensorView queries(q, {n, context.config().n_heads, layout.shape.head_dim});
  if (!layout.profile.is_dense()) {
    const LayerDictionaries& dictionaries = context.dictionaries_of(layer);
    kernels::SparseAttention({.q = queries,
                              .pages = pages.blocks.device,
                              .page_begin = pages.begin.data(),
                              .n_pages = pages.n_pages.device,
                              .page_offset = static_cast<int64_t>(layout.page_offset(layer)),
                              .layout = layout.page,
                              .dictionary_k = dictionaries.k.get(),
                              .dictionary_v = dictionaries.v.get(),
                              .scale = context.attention_scale(),
                              .out = partial.out,
                              .max_score = partial.max_score,
                              .sum_exp = partial.sum_exp},
                             context.stream);
    return;
  }
  kernels::DenseAttention({.q = queries,
                           .pages = pages.blocks.device,
                           .page_begin = pages.begin.data(),
                           .n_pages = pages.n_pages.device,
                           .page_offset = static_cast<int64_t>(layout.page_offset(layer)),
                           .layout = layout.page,
                           .n_kv_heads = layout.shape.n_kv_heads,
                           .kv_type = layout.shape.cache_type,
                           .scale = context.attention_scale(),
                           .out = partial.out,
                           .max_score = partial.max_score,
                           .sum_exp = partial.sum_exp},
                          context.stream);
}

}  // namespace lexico::worker

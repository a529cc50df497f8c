#include "worker/engine/page_attention.h"

#include <algorithm>
#include <limits>

#include "kernels/api/sparse_attention.h"
#include "proto/base/check.h"

namespace lexico::worker {

PartialViews PartialRows(const KvShape& shape, int n_heads, int64_t first, int64_t count,
                         float* out, float* max_score, float* sum_exp) {
  const int64_t width = static_cast<int64_t>(n_heads) * shape.head_dim;
  return {.out = {out + first * width, {count, n_heads, shape.head_dim}},
          .max_score = {max_score + first * n_heads, {count, n_heads}},
          .sum_exp = {sum_exp + first * n_heads, {count, n_heads}}};
}

void PageAttentionScratch::Collect(std::span<const SessionKv* const> sessions) {
  blocks.clear();
  begin.assign(1, 0);
  for (const SessionKv* session : sessions) {
    const auto of_session = session->page_blocks();
    blocks.insert(blocks.end(), of_session.begin(), of_session.end());
    begin.push_back(static_cast<int64_t>(blocks.size()));
  }
}

void AttendToPages(const ForwardContext& context, int layer,
                   std::span<const SessionKv* const> sessions, const float* q,
                   const PartialViews& partial, PageAttentionScratch& scratch) {
  const auto n = static_cast<int64_t>(sessions.size());
  if (n == 0) return;
  const KvLayout& layout = sessions[0]->layout();
  const int n_heads = context.config().n_heads;
  scratch.Collect(sessions);
  if (scratch.blocks.empty()) {
    std::fill_n(partial.out.as_mutable<float>(), partial.out.size(), 0.0f);
    std::fill_n(partial.max_score.as_mutable<float>(), partial.max_score.size(),
                -std::numeric_limits<float>::infinity());
    std::fill_n(partial.sum_exp.as_mutable<float>(), partial.sum_exp.size(), 0.0f);
    return;
  }
  const auto page_offset = static_cast<int64_t>(layout.page_offset(layer));
  const kernels::TensorView queries(q, {n, n_heads, layout.shape.head_dim});
  if (!layout.profile.is_dense()) {
    const LayerDictionaries& dictionaries = context.dictionaries_of(layer);
    kernels::SparseAttention({.q = queries,
                              .pages = scratch.blocks.data(),
                              .page_begin = scratch.begin.data(),
                              .page_offset = page_offset,
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
                           .pages = scratch.blocks.data(),
                           .page_begin = scratch.begin.data(),
                           .page_offset = page_offset,
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

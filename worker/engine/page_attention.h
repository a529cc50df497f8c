// Attention of single queries over the sealed pages of one layer, coded or dense: the part of a
// decode step that differs by profile.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/api/dense_attention.h"
#include "kernels/api/tensor.h"
#include "worker/engine/forward_context.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

// Partial softmaxes, as kernels/api/merge_partials.h joins them.
struct PartialViews {
  kernels::MutableTensorView out;        // [n, n_heads, head_dim]   F32
  kernels::MutableTensorView max_score;  // [n, n_heads]             F32
  kernels::MutableTensorView sum_exp;    // [n, n_heads]             F32
};

// Rows first .. first + count - 1 of buffers [*, n_heads, head_dim] and [*, n_heads].
PartialViews PartialRows(const KvShape& shape, int n_heads, int64_t first, int64_t count,
                         float* out, float* max_score, float* sum_exp);

// The sealed pages of several sessions: blocks of all layers, of which a layer's pages lie at
// KvLayout::page_offset. Working memory; grows and is reused.
struct PageAttentionScratch {
  std::vector<const uint8_t*> blocks;
  std::vector<int64_t> begin;  // [n_sessions + 1]

  void Collect(std::span<const SessionKv* const> sessions);
};

// Query i of `q` [n, n_heads, head_dim] attends to all sealed pages of sessions[i]. All sessions
// have one layout. Sessions without pages give an empty part.
void AttendToPages(const ForwardContext& context, int layer,
                   std::span<const SessionKv* const> sessions, const float* q,
                   const PartialViews& partial, PageAttentionScratch& scratch);

}  // namespace lexico::worker

// Attention of single queries over the sealed pages of one layer, coded or dense: the part of a
// decode step that differs by profile.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/api/tensor.h"
#include "worker/engine/forward_context.h"
#include "worker/engine/step_arrays.h"
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

// The sealed pages of several sessions of one layout on a rank, one table for all layers. Each
// session has a place for more pages than it has, so that a step stays the same, and a recorded one
// serves again, while sessions grow.
struct SessionPages {
  StepArray<const uint8_t*> blocks;  // of all sessions, in order
  StepArray<int32_t> n_pages;        // [n_sessions], what they have
  std::vector<int64_t> begin;        // [n_sessions + 1], where their places begin

  // The place of a session with n pages: n rounded up to a multiple of 8, or of an eighth of the
  // power of two below it; 0 for 0. At most PagesMax(n).
  static int64_t PlaceOf(int64_t n);
  static int64_t PagesMax(int64_t n) { return n + n / 8 + 8; }

  // What Collect adds to the arrays of a step.
  static size_t BytesFor(std::span<const SessionKv* const> sessions);
  void Collect(std::span<const SessionKv* const> sessions, int rank, StepArrays& arrays);
};

// Query i of `q` [n, n_heads, head_dim] attends to all sealed pages of session i of `pages`, whose
// layout is `layout`. Sessions without pages give an empty part.
void AttendToPages(const ForwardContext& context, const KvLayout& layout, int layer,
                   const SessionPages& pages, const float* q, const PartialViews& partial);

}  // namespace lexico::worker

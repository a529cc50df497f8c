// What a residual adds to SparseAttention (sparse_attention_kernels.h, whose words these are): one
// pass over the pages after the atoms' for scores, one for values.
//
// Keys: a level is a sum of signed factors (kernels/api/residual.h), so with tables of
// sum_i +-(R q)_i over the 8 numbers of each byte of a plane, a plane is head_dim / 8 look-ups,
// which serve all heads of the group.
//
// Values: sums of p * scale * level stay rotated; they are rotated back once a query head.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/api/code_layout.h"
#include "kernels/cpu/code_view.h"

namespace lexico::kernels::cpu {

// table [head_dim / 8, 256, lanes] of the scaled queries q [lanes, head_dim].
size_t ResidualTableFloats(int head_dim, int lanes);
void FillResidualTable(const float* q, int head_dim, int lanes, float* table);

// scores [n_pages * page_tokens, lanes] += the residuals' part.
void AddResidualScores(const PageList& pages, int64_t n_pages, const PageLayout& layout,
                       int kv_head, const float* table, int lanes, float* scores);

// sums [lanes, head_dim] += sum_t p[t, g] * scale[t] * level[t].
void AddResidualValues(const PageList& pages, int64_t n_pages, const PageLayout& layout,
                       int kv_head, const float* p, int lanes, float* sums);

}  // namespace lexico::kernels::cpu

// The inner loops of SparseAttention, one instruction set chosen at run time. The driver
// (sparse_attention.cc) says what runs when; here is only arithmetic.
//
// The query heads of one KV head are handled together, `lanes` of them: lanes is 1, 2, 4, 8 or 16,
// and heads past the real ones are zero queries whose results are dropped. Numbers of several heads
// lie side by side, so one code is read once for all:
//
//   table   [n_panels * kPanelAtoms, lanes]   scale * <q_g, D_k[a]>
//   scores  [n_tokens, lanes]                 then, in place, exp(score - max)
//   weights [n_atoms, lanes]                  z of the header: sum_t p[t] c over the codes of atom
//   a
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/api/code_layout.h"
#include "kernels/cpu/attention_atoms.h"
#include "kernels/cpu/code_view.h"

namespace lexico::kernels::cpu {

inline constexpr int kGroupLanesMax = 16;

// Rows of `table` for the atoms of panels [panel_begin, panel_end). q [lanes, head_dim] is scaled.
void FillTable(const AttentionAtoms& dictionary, const float* q, int lanes, int panel_begin,
               int panel_end, float* table);

// What atoms give the scores of n_pages whole pages of one KV head; 0 where there are none.
// `scores` has room for ScoreFloats(tokens, lanes) floats; places past the last token become
// -infinity.
void ScorePages(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                const float* table, int lanes, float* scores);
size_t ScoreFloats(int64_t n_tokens, int lanes);

// Turns scores into exp(score - max) in place; max and sum [lanes].
void SoftmaxInPlace(float* scores, int64_t n_tokens, int lanes, float* max, float* sum);

// weights[a] += p[t] * c over the value codes of n_pages pages. `p` as SoftmaxInPlace leaves it.
void AddWeights(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                const float* p, int lanes, float* weights);

// merged[a, g] = sum_s factors[s, g] * weights[s][a, g], parts in order, for n_atoms atoms.
void MergeWeights(const float* const* weights, const float* factors, int n_parts, int n_atoms,
                  int lanes, float* merged);

// out [lanes, row_stride] += sum_a weights[a, g] * D_v[a] over atoms [begin, begin + n).
void MultiplyWeights(const AttentionAtoms& dictionary, int begin, int n, const float* weights,
                     int lanes, float* out);

}  // namespace lexico::kernels::cpu

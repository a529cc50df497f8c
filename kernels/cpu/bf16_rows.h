// What prefill attention in BF16 does beside products (bf16_tile.h): rounding and packing of rows,
// and the softmax of a row. All for CPUs with AVX512_BF16, which those with AMX are.
//
// Counts are multiples of 32 except where said otherwise; nothing has to be aligned. Rounding is to
// nearest, ties to even; NaN stays NaN; numbers below the smallest normal one become 0.
#pragma once

#include <cstdint>

#include "kernels/cpu/bf16_tile.h"

namespace lexico::kernels::cpu {

// to [n] BF16 = from [n] * factor.
void RoundRow(const float* from, int64_t n, float factor, uint16_t* to);

// 16 rows [n] BF16, one after the other, as the panel [n / 2][16 rows][2].
void PackColumns(const uint16_t* rows, int64_t n, uint16_t* panel);

// Two rows [n] F32 as pairs of panels: (even[i], odd[i]) goes to `to` + i / 16 * panel_stride +
// i % 16 * 2. Returns whether all are finite in BF16.
bool PackPairs(const float* even, const float* odd, int64_t n, uint16_t* to, int64_t panel_stride);

// row [n] *= factor.
void ScaleRow(float factor, int64_t n, float* row);

// The largest of scores [n], any n, and `most`.
float RowMax(const float* scores, int64_t n, float most);

// weights [n] BF16 = 2^(scores - max), of which the first `visible` are seen and the others 0; all
// are 0 where max is -infinity. Returns the sum of the rounded weights, so that weights add up to
// 1. REQUIRES: max is not less than any score seen.
float RowWeights(const float* scores, int64_t n, int64_t visible, float max, uint16_t* weights);

}  // namespace lexico::kernels::cpu

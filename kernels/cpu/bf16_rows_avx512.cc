#include "kernels/cpu/bf16_rows.h"

#if defined(__x86_64__)
// GCC 12 writes an operand that does not matter as a variable set to itself.
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <algorithm>
#include <limits>

#define LEXICO_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

namespace lexico::kernels::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// 2^x for x <= 0: 2^floor(x) times a polynomial of x - floor(x) with constant term 1,
// fitted by exchange (Remez) to the relative error, which is 3e-6: a seven
// hundredth of the rounding to BF16 that follows. -infinity gives 0, NaN stays NaN.
LEXICO_AVX512_BF16 inline __m512 Exp2NonPositive(__m512 x) {
  constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const __m512 f = _mm512_reduce_ps(x, kDown);
  __m512 p = _mm512_set1_ps(1.34266838e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.22424728e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.41280198e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93044841e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, x);
}

// The first n of 16 scores, the others -infinity; n may be any number.
LEXICO_AVX512_BF16 inline __m512 LoadSeen(const float* scores, int64_t n) {
  const auto seen = static_cast<__mmask16>((1u << std::clamp<int64_t>(n, 0, 16)) - 1);
  return _mm512_mask_loadu_ps(_mm512_set1_ps(kMinusInfinity), seen, scores);
}

// Writes 32 weights and adds them to `total`, whose lane i gets the weights 2i and 2i + 1.
LEXICO_AVX512_BF16 inline __m512 Weights32(__m512 low, __m512 high, __m512 total,
                                           uint16_t* weights) {
  const auto rounded = (__m512i)_mm512_cvtne2ps_pbh(Exp2NonPositive(high), Exp2NonPositive(low));
  _mm512_storeu_si512(weights, rounded);
  const __m512i ones = _mm512_set1_epi16(0x3f80);
  return _mm512_dpbf16_ps(total, (__m512bh)rounded, (__m512bh)ones);
}

}  // namespace

LEXICO_AVX512_BF16 void RoundRow(const float* from, int64_t n, float factor, uint16_t* to) {
  const __m512 scale = _mm512_set1_ps(factor);
  for (int64_t i = 0; i < n; i += 32) {
    const __m512 low = _mm512_mul_ps(_mm512_loadu_ps(from + i), scale);
    const __m512 high = _mm512_mul_ps(_mm512_loadu_ps(from + i + 16), scale);
    _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

LEXICO_AVX512_BF16 void PackColumns(const uint16_t* rows, int64_t n, uint16_t* panel) {
  // A pair is moved as one F32 number, in blocks of 4 rows x 4 pairs.
  const auto* from = reinterpret_cast<const float*>(rows);
  auto* to = reinterpret_cast<float*>(panel);
  const int64_t n_pairs = n / 2;
  for (int64_t row = 0; row < 16; row += 4) {
    for (int64_t i = 0; i < n_pairs; i += 4) {
      __m128 block[4];
      for (int64_t j = 0; j < 4; ++j) block[j] = _mm_loadu_ps(from + (row + j) * n_pairs + i);
      _MM_TRANSPOSE4_PS(block[0], block[1], block[2], block[3]);
      for (int64_t j = 0; j < 4; ++j) _mm_storeu_ps(to + (i + j) * 16 + row, block[j]);
    }
  }
}

LEXICO_AVX512_BF16 bool PackPairs(const float* even, const float* odd, int64_t n, uint16_t* to,
                                  int64_t panel_stride) {
  alignas(64) static constexpr uint16_t kTurns[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i turns = _mm512_load_si512(kTurns);
  const __m512i no_sign = _mm512_set1_epi16(0x7fff);
  __m512i most = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    const auto both =
        (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(odd + i), _mm512_loadu_ps(even + i));
    most = _mm512_max_epu16(most, _mm512_and_si512(both, no_sign));
    _mm512_storeu_si512(to + i / 16 * panel_stride, _mm512_permutexvar_epi16(turns, both));
  }
  const __m512i infinity = _mm512_set1_epi16(0x7f80);
  return _mm512_cmpge_epu16_mask(most, infinity) == 0;
}

LEXICO_AVX512_BF16 void ScaleRow(float factor, int64_t n, float* row) {
  const __m512 scale = _mm512_set1_ps(factor);
  for (int64_t i = 0; i < n; i += 16)
    _mm512_storeu_ps(row + i, _mm512_mul_ps(_mm512_loadu_ps(row + i), scale));
}

LEXICO_AVX512_BF16 float RowMax(const float* scores, int64_t n, float most) {
  __m512 max = _mm512_set1_ps(most);
  __m512 other = max;
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    max = _mm512_max_ps(max, _mm512_loadu_ps(scores + i));
    other = _mm512_max_ps(other, _mm512_loadu_ps(scores + i + 16));
  }
  for (; i < n; i += 16) max = _mm512_max_ps(max, LoadSeen(scores + i, n - i));
  return _mm512_reduce_max_ps(_mm512_max_ps(max, other));
}

LEXICO_AVX512_BF16 float RowWeights(const float* scores, int64_t n, int64_t visible, float max,
                                    uint16_t* weights) {
  const __m512 shift = _mm512_set1_ps(max == kMinusInfinity ? 0.0f : max);
  __m512 total = _mm512_setzero_ps();
  int64_t i = 0;
  for (; i + 32 <= visible; i += 32)
    total = Weights32(_mm512_sub_ps(_mm512_loadu_ps(scores + i), shift),
                      _mm512_sub_ps(_mm512_loadu_ps(scores + i + 16), shift), total, weights + i);
  for (; i < visible; i += 32)
    total = Weights32(_mm512_sub_ps(LoadSeen(scores + i, visible - i), shift),
                      _mm512_sub_ps(LoadSeen(scores + i + 16, visible - i - 16), shift), total,
                      weights + i);
  for (; i < n; i += 32) _mm512_storeu_si512(weights + i, _mm512_setzero_si512());
  return _mm512_reduce_add_ps(total);
}

}  // namespace lexico::kernels::cpu
#endif  // defined(__x86_64__)

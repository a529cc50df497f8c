// From sums of byte products to scores, for the files with intrinsics.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/omp_bytes.h"
#include "kernels/cpu/omp_scores.h"

// GCC 12 takes the operand that its own unmasked intrinsics leave undefined for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace lexico::kernels::cpu {

// Scores of vector i with the 32 atoms of panel p from its shifted sums, whose order is that of the
// panel. Panels come in ascending order: the first of a group sets the group's maxima.
__attribute__((target("avx512f,avx512bw"), always_inline)) inline void StoreScores(
    const ByteProducts& t, int i, int p, __m512i sums0, __m512i sums1) {
  constexpr int kGroupPanels = kGroupAtoms / BytePanels::kAtoms;
  const __m512i scores = _mm512_packs_epi32(sums0, sums1);
  int16_t* maxima = t.maxima + i * t.maxima_stride + p / kGroupPanels * kGroupMaxima;
  __m512i largest = _mm512_abs_epi16(scores);
  if (p % kGroupPanels != 0) largest = _mm512_max_epi16(largest, _mm512_load_si512(maxima));
  _mm512_store_si512(t.values + i * t.values_stride + p * BytePanels::kAtoms, scores);
  _mm512_store_si512(maxima, largest);
}

}  // namespace lexico::kernels::cpu

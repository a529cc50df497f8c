// From sums of byte products to scores, for the files with intrinsics.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/omp_bytes.h"
#include "kernels/cpu/omp_scores.h"

// GCC 12 takes the operand that its own unmasked intrinsics leave undefined for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace lexico::kernels::cpu {

// Where the scores of the 32 atoms of a panel go. Panels come in ascending order: the first of a
// group sets the group's maxima.
class PanelScores {
 public:
  PanelScores(const ByteProducts& t, int panel)
      : first_(panel % kGroupPanels == 0),
        values_(t.values + static_cast<size_t>(panel / kGroupPanels) * t.interleaved * kGroupAtoms +
                panel % kGroupPanels * BytePanels::kAtoms),
        maxima_(t.maxima +
                static_cast<size_t>(panel / kGroupPanels) * t.interleaved * kGroupMaxima) {}

  // Of vector i, from its shifted sums in the order of the panel.
  __attribute__((target("avx512f,avx512bw"), always_inline)) void Store(int i, __m512i sums0,
                                                                        __m512i sums1) const {
    const __m512i scores = _mm512_packs_epi32(sums0, sums1);
    int16_t* maxima = maxima_ + static_cast<size_t>(i) * kGroupMaxima;
    __m512i largest = _mm512_abs_epi16(scores);
    if (!first_) largest = _mm512_max_epi16(largest, _mm512_load_si512(maxima));
    _mm512_store_si512(values_ + static_cast<size_t>(i) * kGroupAtoms, scores);
    _mm512_store_si512(maxima, largest);
  }

 private:
  static constexpr int kGroupPanels = kGroupAtoms / BytePanels::kAtoms;
  bool first_;
  int16_t* values_;
  int16_t* maxima_;
};

}  // namespace lexico::kernels::cpu

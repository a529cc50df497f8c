// Products of a few vectors with the atoms of one panel (attention_atoms.h), for every instruction
// set. Included once per target by files built with Highway's foreach_target.
#if defined(LEXICO_KERNELS_CPU_PANEL_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LEXICO_KERNELS_CPU_PANEL_TILE_INL_H_
#undef LEXICO_KERNELS_CPU_PANEL_TILE_INL_H_
#else
#define LEXICO_KERNELS_CPU_PANEL_TILE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_atoms.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Makes the compiler hold v in a register from here on. GCC otherwise folds a load into each of the
// instructions that use it, and a tile that reads its operands again for every row is bound by
// loads: measured 44 against 74 G multiply-adds/s for the 16-bit tile on Zen 3.
template <class V>
HWY_INLINE void KeepInRegister(V& v) {
#if HWY_COMPILER_GCC_ACTUAL && HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  asm("" : "+v"(v.raw));
#endif
}

// Floats, or the bits of F16 widened to floats.
template <class D>
HWY_INLINE hn::Vec<D> LoadWidened(D d, const float* from) {
  return hn::LoadU(d, from);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadWidened(D d, const uint16_t* from) {
  const hn::Rebind<hwy::float16_t, D> narrow;
  return hn::PromoteTo(d, hn::LoadU(narrow, reinterpret_cast<const hwy::float16_t*>(from)));
}

// tile[r, j] = <q_r, atom j> for the kPanelAtoms atoms of a panel and kRows vectors, row r at
// q + r * q_stride. Two registers of atoms at a time: with 4 rows that is 8 sums, which hides the
// latency of two multiply-add units, and 6 loads for 8 multiply-adds, which the load units keep up
// with. Terms are added in the order of i, whatever kRows is.
template <int kRows, typename Element>
HWY_INLINE void PanelTile(const Element* HWY_RESTRICT panel, const float* HWY_RESTRICT q,
                          size_t q_stride, int head_dim, float* HWY_RESTRICT tile) {
  using Tag = hn::CappedTag<float, 16>;
  const Tag d;
  constexpr size_t kLanes = hn::MaxLanes(Tag());
  constexpr size_t kVectors = std::min<size_t>(2, kPanelAtoms / kLanes);
  for (size_t half = 0; half < kPanelAtoms; half += kVectors * kLanes) {
    hn::Vec<Tag> sum[kRows * kVectors];
#pragma GCC unroll 16
    for (size_t v = 0; v < kRows * kVectors; ++v) sum[v] = hn::Zero(d);
    for (int i = 0; i < head_dim; ++i) {
      const Element* HWY_RESTRICT from = panel + i * kPanelAtoms + half;
      hn::Vec<Tag> atoms[kVectors];
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) {
        atoms[v] = LoadWidened(d, from + v * kLanes);
        KeepInRegister(atoms[v]);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const auto factor = hn::Set(d, q[r * q_stride + i]);
#pragma GCC unroll 4
        for (size_t v = 0; v < kVectors; ++v) {
          auto& s = sum[r * kVectors + v];
          s = hn::MulAdd(factor, atoms[v], s);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) {
        hn::StoreU(sum[r * kVectors + v], d, tile + r * kPanelAtoms + half + v * kLanes);
      }
    }
  }
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LEXICO_KERNELS_CPU_PANEL_TILE_INL_H_

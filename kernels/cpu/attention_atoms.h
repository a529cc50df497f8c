// A dictionary as attention over codes reads it.
//
// A decode step reads both dictionaries of every layer once and does little with each number, so
// bytes are what counts: atoms of an F16 file stay F16, as the file has them, and the
// re-normalisation (kernels/api/dictionary.h) is one factor per atom, applied to q D^T after the
// product and to z before it. 1 + 1 MiB at 4096 x 128 instead of 2 + 2. Atoms of an F32 file stay
// F32.
//
// Measured, 2 cores of an AMD EPYC (Zen 5), 8 layers of 4096 atoms, 1,024 tokens, so that reading
// dictionaries is nearly all there is: docs/performance.md.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/api/tensor.h"

namespace lexico::kernels::cpu {

// Atoms of one panel. 32 floats are two cache lines and a multiple of every vector width in use
// (4 on SSE2 .. 16 on AVX-512), so no kernel needs a remainder loop over atoms.
inline constexpr int kPanelAtoms = 32;

class AttentionAtoms {
 public:
  // `atoms` [n_atoms, head_dim] F16 or F32, copied; `norms` [n_atoms], of its rows.
  AttentionAtoms(TensorView atoms, std::span<const double> norms);

  size_t bytes() const;
  DType dtype() const { return dtype_; }
  int n_atoms() const { return n_atoms_; }
  int n_panels() const { return padded_atoms_ / kPanelAtoms; }
  int head_dim() const { return head_dim_; }
  int row_stride() const { return row_stride_; }  // head_dim rounded up to 32

  // Elements of dtype(): uint16_t bits of F16, or float.
  // [n_panels, head_dim, kPanelAtoms]: element (p, i, j) is component i of atom p * kPanelAtoms +
  // j; atoms past the last are 0.
  const void* panels() const { return panels_.get(); }
  // [n_atoms, row_stride]; the places from head_dim on are 0.
  const void* rows() const { return rows_.get(); }
  // 1 / norm of each atom; 0 past the last, up to a whole panel.
  const float* inverse_norms() const { return inverse_norms_.get(); }

 private:
  int n_atoms_;
  int head_dim_;
  int row_stride_;
  int padded_atoms_;
  DType dtype_;
  hwy::AlignedFreeUniquePtr<uint8_t[]> panels_;
  hwy::AlignedFreeUniquePtr<uint8_t[]> rows_;
  hwy::AlignedFreeUniquePtr<float[]> inverse_norms_;
};

}  // namespace lexico::kernels::cpu

// What one coded vector takes, and where its parts lie: the one rule for profiles, kernels and the
// page format. docs/adr/0015-profile-family.md says why it is so.
//
//   x^ = sum_j c_j d_{a_j}  +  residual_scale * R^T levels
//
// `sparsity` atoms with a coefficient each, then what they leave, rotated by R and rounded to
// 2^residual_bits levels a number (kernels/api/residual.h). Either may be absent, not both.
//
// A block of n vectors (the tokens of one KV head in a page), in this order:
//
//   atoms            u16 [n, sparsity]   coefficient_bits 8: the index
//                                        coefficient_bits 4: index * 16 + the coefficient, a signed
//                                        number -8 .. 7 in 4 bits
//   scales           f16 [n]             coefficient_bits 4 only: c_j = scale * number
//   residual_scales  f16 [n]             with a residual only
//   coefs            u8  [n, sparsity]   coefficient_bits 8 only: FP8 E4M3FN
//   residual         u8  [n, residual_bits, head_dim / 8]  bit planes, see kernels/api/residual.h
//
// n is even, so every array of 16-bit numbers is 2-byte aligned when the block is.
#pragma once

#include <cstddef>

namespace lexico::base {

// The largest dictionary whose indices fit beside a 4-bit coefficient.
inline constexpr int kPackedAtomsMax = 4096;
inline constexpr int kResidualBitsMax = 3;
// A residual needs a head_dim that is a power of two, and whole bytes.
inline constexpr int kResidualDimMin = 8;
constexpr bool CanRotate(int head_dim) {
  return head_dim >= kResidualDimMin && (head_dim & (head_dim - 1)) == 0;
}

struct CodeForm {
  int coefficient_bits = 8;  // 8 or 4
  int residual_bits = 0;     // 0 .. kResidualBitsMax
  // How it was made, not how it is read: <x^, x> = <x, x> of what the scale covers, instead of the
  // least error.
  bool unbiased = false;

  bool operator==(const CodeForm&) const = default;
};

struct VectorCode {
  int sparsity = 0;
  CodeForm form;

  bool operator==(const VectorCode&) const = default;
  bool is_empty() const { return sparsity == 0 && form.residual_bits == 0; }
  // The paper's: OMP and FP8 coefficients, nothing else.
  bool is_paper() const { return sparsity > 0 && form == CodeForm{}; }
  bool is_packed() const { return sparsity > 0 && form.coefficient_bits == 4; }
  bool has_residual() const { return form.residual_bits > 0; }

  size_t residual_bytes(int head_dim) const {
    return static_cast<size_t>(form.residual_bits) * head_dim / 8;
  }
  // Of one vector.
  size_t bytes(int head_dim) const { return block_bytes(1, head_dim); }

  // Offsets of the arrays in a block of n vectors; of one that is absent, where it would be.
  size_t scales_at(size_t n) const { return 2 * n * sparsity; }
  size_t residual_scales_at(size_t n) const { return scales_at(n) + (is_packed() ? 2 * n : 0); }
  size_t coefs_at(size_t n) const { return residual_scales_at(n) + (has_residual() ? 2 * n : 0); }
  size_t residual_at(size_t n) const { return coefs_at(n) + (is_packed() ? 0 : n * sparsity); }
  size_t block_bytes(size_t n, int head_dim) const {
    return residual_at(n) + n * residual_bytes(head_dim);
  }
};

}  // namespace lexico::base

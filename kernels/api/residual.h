// The rotated residual of a code: 1 to 3 bits a number.
//
//   z = H S r / sqrt(head_dim)     S signs, H the Hadamard matrix: z looks like draws of a Gaussian
//   r^ = S H (scale * l) / sqrt(head_dim)     l_i: the level of number i, one of 2^bits
//
// The rotation R = H S / sqrt(head_dim) is orthogonal, so scores need no rotation back:
// <q, r^> = scale * <R q, l>. It is fixed, the same for every layer, head and model, and so are the
// levels: those of least mean squared error for a standard normal number (Lloyd 1957, Max 1960).
//
// Levels are stored as sums of signs, one bit plane after another, because a plane of signs is what
// look-ups and vector units read fastest, and one table serves every number of bits:
//
//   l_i = sum_p factor[p] * sign_p(i)      sign_p(i): +1 where bit i of plane p is set, else -1
//
// Plane 0 is the sign of l_i. With s that sign and m_1, m_0 = +-1 the bits of the magnitude's rank,
// high one first, plane 1 is s m_1 and plane 2 (3 bits) is s m_0. 4 magnitudes take a fourth term,
// s m_1 m_0, whose sign is the product of the three planes': its bits are their exclusive or, so it
// is not stored. Bit i of a plane is bit i % 8 of its byte i / 8.
#pragma once

#include <array>
#include <cstdint>

#include "proto/base/split_mix.h"
#include "proto/base/vector_code.h"

namespace lexico::kernels {

using base::CanRotate;

// Of number i: the same for every vector.
constexpr float ResidualSign(int i) {
  const uint64_t step = static_cast<uint64_t>(i) + 1;
  return (base::SplitMixFinish(step * base::kSplitMixStep) >> 63) != 0 ? -1.0f : 1.0f;
}

inline constexpr int kLevelTermsMax = 4;

struct ResidualLevels {
  int n_magnitudes = 1;                           // 2^(bits - 1)
  std::array<double, kLevelTermsMax> magnitudes;  // ascending
  int n_terms = 1;                                // bits, and one more of 3
  std::array<double, kLevelTermsMax> factors;
};

// The positive levels of 1, 2 and 3 bits: each is the mean of the half normal numbers nearest to
// it.
inline constexpr std::array<std::array<double, kLevelTermsMax>, base::kResidualBitsMax>
    kLevelMagnitudes = {
        {{0.7978845608028654},
         {0.4527800346364921, 1.5104176084990957},
         {0.2450941789442217, 0.7560052812058777, 1.3439092785050000, 2.1519457045369901}}};

// REQUIRES: 1 <= bits <= kResidualBitsMax
constexpr ResidualLevels LevelsOf(int bits) {
  const auto& m = kLevelMagnitudes[bits - 1];
  if (bits == 1) return {1, m, 1, {m[0]}};
  if (bits == 2) return {2, m, 2, {(m[1] + m[0]) / 2, (m[1] - m[0]) / 2}};
  return {4,
          m,
          4,
          {(m[3] + m[2] + m[1] + m[0]) / 4, (m[3] + m[2] - m[1] - m[0]) / 4,
           (m[3] - m[2] + m[1] - m[0]) / 4, (m[3] - m[2] - m[1] + m[0]) / 4}};
}

}  // namespace lexico::kernels

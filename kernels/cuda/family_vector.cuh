// One number at a time of a vector's code, for ops that read each code once. What reads codes in
// bulk: family_codes.cuh.
#pragma once

#include "kernels/cuda/family_codes.cuh"

namespace lexico::kernels::cuda {

// Place j of a token's code.
struct CodedAtom {
  uint32_t index;
  float coefficient;
};
__device__ inline CodedAtom AtomAt(const FamilyPages& codes, const uint8_t* block, int token,
                                   int j) {
  const uint16_t word = codes.Atoms(block, token)[j];
  if (!codes.packed) return {word, E4m3PairToFloat(codes.Coefs(block, token)[j]).x};
  return {static_cast<uint32_t>(word >> 4),
          PackedRun<1>::Number(word) * HalfToFloat(codes.Scale(block, token))};
}

// Number i of a token's levels, of its planes.
__device__ inline float LevelAt(const FamilyPages& codes, const uint8_t* planes, int i) {
  float level = 0;
  uint32_t product = 0;
#pragma unroll
  for (int term = 0; term < kLevelTermsMax; ++term) {
    if (term >= codes.terms.n_terms) break;
    uint32_t bit = product;
    if (term < codes.residual_bits) {
      bit = planes[term * codes.plane_bytes + i / 8] >> (i % 8) & 1u;
      product ^= bit;
    }
    level += bit != 0 ? codes.terms.factors[term] : -codes.terms.factors[term];
  }
  return level;
}

}  // namespace lexico::kernels::cuda

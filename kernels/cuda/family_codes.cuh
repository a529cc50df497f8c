// Codes of any profile (proto/base/vector_code.h) as kernels read them: atoms with coefficients of
// 8 or 4 bits, bit planes of residuals, scales. The paper's codes alone: codes.cuh.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/api/residual.h"
#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/residual_bits.h"

namespace lexico::kernels::cuda {

// The factors of a residual's terms, as a kernel's argument.
struct LevelTerms {
  int n_terms = 0;
  float factors[kLevelTermsMax] = {};
  float largest = 0;  // level

  explicit LevelTerms(int bits) {
    if (bits == 0) return;
    const ResidualLevels levels = LevelsOf(bits);
    n_terms = levels.n_terms;
    for (int p = 0; p < n_terms; ++p) factors[p] = static_cast<float>(levels.factors[p]);
    largest = static_cast<float>(levels.magnitudes[levels.n_magnitudes - 1]);
  }
};

// The codes of one kind and all KV heads in the pages of a layer, as a kernel's argument.
struct FamilyPages : CodePages {
  int head_dim;
  bool packed;           // coefficients are 4 bits beside the index
  int run;               // codes that are read together; 0: no atoms
  int residual_bits;     // 0: none
  int plane_bytes;       // of one plane of a vector
  bool words;            // planes are aligned to 4 bytes
  int64_t scales_bytes;  // within a block, before the arrays
  int64_t residual_scales_bytes;
  int64_t planes_bytes;
  LevelTerms terms;

  FamilyPages(const uint8_t* const* pages, int64_t page_offset, const PageLayout& layout,
              bool value)
      : FamilyPages(CodePages(pages, page_offset, layout, value), layout, layout.code(value)) {}

#ifdef __CUDACC__
  // Of a token of the page, in a block. F16 bits.
  __device__ uint16_t Scale(const uint8_t* block, int token) const {
    return reinterpret_cast<const uint16_t*>(block + scales_bytes)[token];
  }
  __device__ uint16_t ResidualScale(const uint8_t* block, int token) const {
    return reinterpret_cast<const uint16_t*>(block + residual_scales_bytes)[token];
  }
  // The token's first plane; the others follow.
  __device__ const uint8_t* Planes(const uint8_t* block, int token) const {
    return block + planes_bytes + token * (residual_bits * plane_bytes);
  }
#endif

 private:
  FamilyPages(const CodePages& codes, const PageLayout& layout, const VectorCode& code)
      : CodePages(codes),
        head_dim(layout.head_dim),
        packed(code.is_packed()),
        run(Run(codes, code)),
        residual_bits(code.form.residual_bits),
        plane_bytes(layout.head_dim / 8),
        scales_bytes(static_cast<int64_t>(code.scales_at(layout.page_tokens))),
        residual_scales_bytes(static_cast<int64_t>(code.residual_scales_at(layout.page_tokens))),
        planes_bytes(static_cast<int64_t>(code.residual_at(layout.page_tokens))),
        terms(code.form.residual_bits) {
    words = (kind_bytes | head_bytes | planes_bytes | plane_bytes) % 4 == 0;
  }
  // Pages are aligned to 64 bytes. Runs as WithFamilyRun has them.
  static int Run(const CodePages& codes, const VectorCode& code) {
    if (code.sparsity == 0) return 0;
    if (!code.is_packed()) return codes.RunLength() >= 4 ? 4 : 1;
    for (const int run : {8, 2}) {
      const int64_t bytes = 2 * run;
      if (code.sparsity % run == 0 && codes.kind_bytes % bytes == 0 &&
          codes.head_bytes % bytes == 0) {
        return run;
      }
    }
    return 1;
  }
};

#ifdef __CUDACC__

__device__ inline float HalfToFloat(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

// kRun consecutive codes with 4-bit coefficients of one vector; coefficients come without the
// vector's scale, as whole numbers -8 .. 7.
template <int kRun>
struct PackedRun {
  static constexpr int kCodes = kRun;
  static constexpr bool kPacked = true;
  uint32_t words[(kRun + 1) / 2];

  __device__ void Load(const uint16_t* atoms, const uint8_t* coefs) {
    LoadWords<2 * kRun>(atoms, words);
  }
  // The sum of 2^23 and the number + 8, less both: conversions would be slower.
  __device__ static float Number(uint32_t word) {
    return __uint_as_float((word & 0xfu) ^ 0x4b000008u) - 8388616.0f;
  }
  template <typename Body>
  __device__ void ForEach(const Body& body) const {
#pragma unroll
    for (int i = 0; i < kRun; i += 2) {
      const uint32_t word = words[i / 2];
      body(word >> 4 & 0xfffu, Number(word));
      if (i + 1 < kRun) body(word >> 20, Number(word >> 16));
    }
  }
};

// Calls body(a run) with the kind of run that the codes are read in; nothing without atoms.
template <typename Body>
__device__ inline void WithFamilyRun(const FamilyPages& codes, const Body& body) {
  if (codes.run == 0) return;
  if (!codes.packed) {
    if (codes.run == 4) return body(CodeRun<4>());
    return body(CodeRun<1>());
  }
  if (codes.run == 8) return body(PackedRun<8>());
  if (codes.run == 2) return body(PackedRun<2>());
  body(PackedRun<1>());
}

// A float as two F16 numbers: sum = first + second * kSecondPiece.
inline constexpr float kSecondPiece = 0x1p-11f;
__device__ inline float2 SplitInPieces(float x) {
  const float first = __half2float(__float2half_rn(x));
  return make_float2(first, (x - first) * 0x1p11f);
}

#endif  // __CUDACC__

}  // namespace lexico::kernels::cuda

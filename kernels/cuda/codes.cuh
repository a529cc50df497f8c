// Codes as kernels read them: runs of kRun consecutive (atom, coefficient) pairs of one vector.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/api/code_layout.h"

namespace lexico::kernels::cuda {

// The codes of one kind and all KV heads in the pages of a layer, as a kernel's argument.
struct CodePages {
  const uint8_t* const* pages;
  int page_tokens;
  int sparsity;
  int64_t kind_bytes;   // where the kind's blocks begin, from what `pages` points to
  int64_t head_bytes;   // of one KV head's block
  int64_t atoms_bytes;  // within a block, before the coefficients

  CodePages(const uint8_t* const* pages, int64_t page_offset, const PageLayout& layout, bool value)
      : pages(pages),
        page_tokens(layout.page_tokens),
        sparsity(value ? layout.sparsity_v : layout.sparsity_k),
        kind_bytes(page_offset + static_cast<int64_t>(layout.head_offset(value, 0))),
        head_bytes(static_cast<int64_t>(layout.head_bytes(value))),
        atoms_bytes(static_cast<int64_t>(layout.code(value).coefs_at(layout.page_tokens))) {}

  // The longest run, of 8, 4 or 1, that divides a vector's codes and is aligned in every page.
  // Pages are aligned to 64 bytes.
  int RunLength() const {
    for (const int run : {8, 4}) {
      if (sparsity % run == 0 && kind_bytes % (2 * run) == 0 && head_bytes % (2 * run) == 0 &&
          atoms_bytes % run == 0) {
        return run;
      }
    }
    return 1;
  }

#ifdef __CUDACC__
  // The block of a KV head in a page, and the codes of a token of the page in a block.
  __device__ const uint8_t* Block(const uint8_t* page, int kv_head) const {
    return page + kind_bytes + kv_head * head_bytes;
  }
  __device__ const uint16_t* Atoms(const uint8_t* block, int token) const {
    return reinterpret_cast<const uint16_t*>(block) + token * sparsity;
  }
  __device__ const uint8_t* Coefs(const uint8_t* block, int token) const {
    return block + atoms_bytes + token * sparsity;
  }
#endif
};

#ifdef __CUDACC__

// Two E4M3 codes in the low 16 bits to F32, exact; 0x7f and 0xff are NaN.
__device__ inline float2 E4m3PairToFloat(uint32_t pair) {
  const __half2_raw halves =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pair), __NV_E4M3);
  return __half22float2(__half2(halves));
}

// `kBytes` consecutive bytes as 32-bit words, in one load; the last word may be half empty.
template <int kBytes>
__device__ inline void LoadWords(const void* from, uint32_t (&words)[(kBytes + 3) / 4]) {
  if constexpr (kBytes == 16) {
    const uint4 value = *static_cast<const uint4*>(from);
    words[0] = value.x, words[1] = value.y, words[2] = value.z, words[3] = value.w;
  } else if constexpr (kBytes == 8) {
    const uint2 value = *static_cast<const uint2*>(from);
    words[0] = value.x, words[1] = value.y;
  } else if constexpr (kBytes == 4) {
    words[0] = *static_cast<const uint32_t*>(from);
  } else if constexpr (kBytes == 2) {
    words[0] = *static_cast<const uint16_t*>(from);
  } else {
    static_assert(kBytes == 1);
    words[0] = *static_cast<const uint8_t*>(from);
  }
}

// A run as it was loaded; codes are taken out where they are used, so that a run which is loaded
// ahead takes few registers.
template <int kRun>
struct CodeRun {
  static constexpr int kCodes = kRun;
  static constexpr bool kPacked = false;
  uint32_t atom_words[(2 * kRun + 3) / 4];
  uint32_t coef_words[(kRun + 3) / 4];

  __device__ void Load(const uint16_t* atoms, const uint8_t* coefs) {
    LoadWords<2 * kRun>(atoms, atom_words);
    LoadWords<kRun>(coefs, coef_words);
  }
  // Calls body(atom, coefficient) for each code, in order.
  template <typename Body>
  __device__ void ForEach(const Body& body) const {
#pragma unroll
    for (int i = 0; i < kRun; i += 2) {
      const float2 pair = E4m3PairToFloat(coef_words[i / 4] >> (8 * (i % 4)) & 0xffffu);
      body(atom_words[i / 2] & 0xffffu, pair.x);
      if (i + 1 < kRun) body(atom_words[i / 2] >> 16, pair.y);
    }
  }
};

#endif  // __CUDACC__

}  // namespace lexico::kernels::cuda

// Where the codes of one KV head lie in a coded page (kernels/api/code_layout.h).
#pragma once

#include <cstdint>

#include "kernels/api/code_layout.h"

namespace lexico::kernels::cpu {

// Arrays that the code does not have are not to be read.
struct CodeView {
  const uint16_t* atoms;            // [page_tokens, sparsity], with 4-bit coefficients where packed
  const uint8_t* coefs;             // [page_tokens, sparsity], FP8 E4M3
  const uint16_t* scales;           // [page_tokens] F16
  const uint16_t* residual_scales;  // [page_tokens] F16
  const uint8_t* residual;          // [page_tokens, residual_bits, head_dim / 8]
};

// Pages of one layer, as an op's arguments name them.
struct PageList {
  const uint8_t* const* pages;
  int64_t offset;  // bytes added to each

  const uint8_t* operator[](int64_t i) const { return pages[i] + offset; }
};

inline CodeView CodesOf(const uint8_t* page, const PageLayout& layout, bool value, int head) {
  const uint8_t* block = page + layout.head_offset(value, head);
  const VectorCode code = layout.code(value);
  const auto n = static_cast<size_t>(layout.page_tokens);
  return {.atoms = reinterpret_cast<const uint16_t*>(block),
          .coefs = block + code.coefs_at(n),
          .scales = reinterpret_cast<const uint16_t*>(block + code.scales_at(n)),
          .residual_scales = reinterpret_cast<const uint16_t*>(block + code.residual_scales_at(n)),
          .residual = block + code.residual_at(n)};
}

}  // namespace lexico::kernels::cpu

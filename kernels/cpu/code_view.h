// Where the codes of one KV head lie in a coded page (kernels/api/code_layout.h).
#pragma once

#include <cstdint>

#include "kernels/api/code_layout.h"

namespace lexico::kernels::cpu {

struct CodeView {
  const uint16_t* atoms;  // [page_tokens, sparsity]
  const uint8_t* coefs;   // [page_tokens, sparsity], FP8 E4M3
};

// Pages of one layer, as an op's arguments name them.
struct PageList {
  const uint8_t* const* pages;
  int64_t offset;  // bytes added to each

  const uint8_t* operator[](int64_t i) const { return pages[i] + offset; }
};

inline CodeView CodesOf(const uint8_t* page, const PageLayout& layout, bool value, int head) {
  const uint8_t* block = page + layout.head_offset(value, head);
  const int sparsity = value ? layout.sparsity_v : layout.sparsity_k;
  return {reinterpret_cast<const uint16_t*>(block), block + layout.atoms_bytes(sparsity)};
}

}  // namespace lexico::kernels::cpu

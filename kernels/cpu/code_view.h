// Where the codes of one KV head lie in a coded page (kernels/api/code_layout.h).
#pragma once

#include <cstdint>

#include "kernels/api/code_layout.h"

namespace lexico::kernels::cpu {

struct CodeView {
  const uint16_t* atoms;  // [page_tokens, sparsity]
  const uint8_t* coefs;   // [page_tokens, sparsity], FP8 E4M3
};

inline CodeView CodesOf(const uint8_t* page, const PageLayout& layout, bool value, int head) {
  const uint8_t* block = page + layout.head_offset(value, head);
  const int sparsity = value ? layout.sparsity_v : layout.sparsity_k;
  return {reinterpret_cast<const uint16_t*>(block), block + layout.atoms_bytes(sparsity)};
}

}  // namespace lexico::kernels::cpu

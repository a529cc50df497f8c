// Turns exact rows of one layer into the payloads of sealed pages.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/api/stream.h"
#include "worker/kv/kv_layout.h"

namespace lexico::worker {

// Mean relative L2 error of a page's vectors, ||x - x^|| / ||x|| with the coefficients as stored; 0
// for dense pages.
struct PageError {
  float k = 0;
  float v = 0;
};

// Working memory of the functions below; grows and is reused. One thread at a time.
struct CoderScratch {
  std::vector<uint16_t> atoms;
  std::vector<uint8_t> coefs;
  std::vector<float> errors;
  std::vector<float> rows;
};

// Codes one layer's pages in blocks.size() blocks: page i takes rows [i * page_tokens, (i + 1) *
// page_tokens) of
//   k, v  [blocks.size() * page_tokens, n_kv_heads, head_dim]  F32, values of the cache type
// and writes layout.page_bytes() bytes at layout.page_offset(layer) of blocks[i]. A page's bytes
// follow from its own rows only, whatever is coded beside it. `dictionaries` is not read for dense
// layouts. Internal when a vector is not finite, with how many; the pages' contents are then
// undefined.
absl::Status EncodePages(const KvLayout& layout, const LayerDictionaries& dictionaries,
                         const float* k, const float* v, int layer,
                         std::span<uint8_t* const> blocks, std::span<PageError> errors,
                         const kernels::Stream& stream, CoderScratch& scratch);

// The other way: rows [blocks.size() * page_tokens, n_kv_heads, head_dim] F32 of K or of V. Of
// coded pages this is the approximation x^, of dense pages the rows themselves.
void DecodePages(const KvLayout& layout, const LayerDictionaries& dictionaries, bool value,
                 int layer, std::span<const uint8_t* const> blocks, float* rows,
                 const kernels::Stream& stream, CoderScratch& scratch);

}  // namespace lexico::worker

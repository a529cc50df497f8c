// Dense vectors from codes: x^ = sum_j c_j d_{a_j}, and the residual (residual.h). For text
// appended to a coded session, where many queries share the cost; decode steps never reconstruct
// (sparse_attention.h).
#pragma once

#include <cstdint>

#include "kernels/api/code_layout.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

struct ReconstructArgs {
  // Inputs. Coded pages of one layer, in token order; on a GPU aligned to 64 bytes
  // with page_offset added.
  const uint8_t* const* pages = nullptr;  // [n_pages] payloads, layout below
  int64_t n_pages = 0;
  int64_t page_offset = 0;  // bytes added to every page pointer
  PageLayout layout;
  const PreparedDictionary* dictionary = nullptr;  // of K or of V; may be null without atoms
  bool value = false;                              // which half of the pages

  // Output, overwritten: token-major, so that it stands before dense rows of the same kind.
  MutableTensorView out;  // [n_pages * page_tokens, n_kv_heads, head_dim]   F32
};

// Deterministic: atoms are added in stored order. CHECK-fails on a malformed argument; atom indices
// were verified against n_atoms when the page was read or written.
void Reconstruct(const ReconstructArgs& args, const Stream& stream);

}  // namespace lexico::kernels

// Turns exact rows of one layer into the payloads of sealed pages.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/api/growing_buffer.h"
#include "kernels/api/stream.h"
#include "worker/kv/kv_layout.h"

namespace lexico::worker {

// Mean relative L2 error of a page's vectors, ||x - x^|| / ||x|| with the coefficients as stored; 0
// for dense pages.
struct PageError {
  float k = 0;
  float v = 0;
};

// Working memory of the functions below, in the stream's memory: on a CPU it grows and is reused,
// on a GPU Reserve takes it at start. One thread at a time.
class CoderScratch {
 public:
  // For up to n_pages pages a call. ResourceExhausted where the device has not that much left.
  absl::Status Reserve(const KvLayout& layout, int64_t n_pages, const kernels::Stream& stream);

  // Room for F32 rows that a caller converts before or after a call.
  float* Rows(int64_t n_values, const kernels::Stream& stream) {
    return rows_.Get<float>(n_values, stream);
  }

 private:
  friend class PageCoder;
  // A demotion of half as many pages has those of keys and values side by side.
  kernels::GrowingBuffer atoms_;        // [n_vectors, sparsity] U16
  kernels::GrowingBuffer coefs_;        // [n_vectors, sparsity] U8
  kernels::GrowingBuffer exact_coefs_;  // [n_vectors, sparsity] F32, of codes not the paper's
  kernels::GrowingBuffer errors_;       // [n_vectors] F32
  kernels::GrowingBuffer page_errors_;  // [2, n_pages] F32
  kernels::GrowingBuffer pages_;        // [n_pages] pointers
  kernels::GrowingBuffer counters_;     // [2] int64
  kernels::GrowingBuffer rows_;         // [2, n_pages * page_tokens, n_kv_heads, head_dim] F32
};

// The form of `own` that codes n_vectors of each kind fastest (kernels/api/dictionary.h).
LayerDictionaries DictionariesForCoding(const KvLayout& layout, const LayerDictionaries& own,
                                        int64_t n_vectors, const kernels::Stream& stream);

// What EnqueuePages finds, in the stream's memory; keys before values.
struct PageFindings {
  float* errors[2] = {};            // [n_pages] each, overwritten, but for dense layouts
  int64_t* n_non_finite = nullptr;  // [2], added to: vectors that are not finite
};

// Codes one layer's pages in n_pages blocks, which lie in the stream's memory as the rows do:
// page i takes rows [i * page_tokens, (i + 1) * page_tokens) of
//   k, v  [n_pages * page_tokens, n_kv_heads, head_dim]  F32, values of the cache type
// and writes layout.page_bytes() bytes at layout.page_offset(layer) of pages[i]; `pages` itself is
// in the stream's memory. A page's bytes follow from its own rows only, whatever is coded beside
// it. `dictionaries` is not read where there are no atoms. Pages with vectors that are not finite
// are undefined. Enqueued only; `scratch` is of the stream.
void EnqueuePages(const KvLayout& layout, const LayerDictionaries& dictionaries, const float* k,
                  const float* v, int layer, uint8_t* const* pages, int64_t n_pages,
                  const PageFindings& findings, const kernels::Stream& stream,
                  CoderScratch& scratch);
// Internal where findings, of one layer and already on the host, have vectors that are not finite.
absl::Status CheckFinite(std::span<const int64_t, 2> n_non_finite, int64_t n_vectors);

// The same with a page table and errors of the host, [blocks.size()] each: waits for the device.
// Internal when a vector is not finite, with how many.
absl::Status EncodePages(const KvLayout& layout, const LayerDictionaries& dictionaries,
                         const float* k, const float* v, int layer,
                         std::span<uint8_t* const> blocks, std::span<PageError> errors,
                         const kernels::Stream& stream, CoderScratch& scratch);

// The other way: rows [blocks.size() * page_tokens, n_kv_heads, head_dim] F32 of K or of V. Of
// coded pages this is the approximation x^, of dense pages the rows themselves.
void DecodePages(const KvLayout& layout, const LayerDictionaries& dictionaries, bool value,
                 int layer, std::span<const uint8_t* const> blocks, float* rows,
                 const kernels::Stream& stream, CoderScratch& scratch);

// Pages of `to` from pages of `from` (proto/base/demotion.h): blocks [n] and errors [n], those of
// ||x^ - new x^|| / ||x^||, of the host. On a GPU `scratch` has room for twice as many pages. A
// layer's page may be written where it was read from, block by block, if layers come in ascending
// order: both kinds are read before one is written, and a smaller page of layer l ends before the
// larger one of layer l + 1 begins. Waits for the device.
void DemotePages(const KvLayout& from, const KvLayout& to, const LayerDictionaries& dictionaries,
                 int layer, std::span<const uint8_t* const> sources,
                 std::span<uint8_t* const> targets, std::span<PageError> errors,
                 const kernels::Stream& stream, CoderScratch& scratch);

}  // namespace lexico::worker

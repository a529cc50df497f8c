#include "worker/kv/page_coder.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "kernels/api/elementwise.h"
#include "kernels/api/omp_encode.h"
#include "kernels/api/reconstruct.h"
#include "proto/base/check.h"

namespace lexico::worker {
namespace {

// From the coder's order, [token, head, sparsity], to a page's, [head, token, sparsity].
void ScatterCodes(const KvLayout& layout, bool value, const CoderScratch& scratch,
                  std::span<uint8_t* const> pages) {
  const kernels::PageLayout& page = layout.page;
  const size_t sparsity = value ? page.sparsity_v : page.sparsity_k;
  size_t vector = 0;
  for (uint8_t* payload : pages) {
    for (int token = 0; token < page.page_tokens; ++token) {
      for (int head = 0; head < page.n_kv_heads; ++head, ++vector) {
        uint8_t* block = payload + page.head_offset(value, head);
        std::memcpy(block + token * sparsity * 2, scratch.atoms.data() + vector * sparsity,
                    sparsity * 2);
        std::memcpy(block + page.atoms_bytes(static_cast<int>(sparsity)) + token * sparsity,
                    scratch.coefs.data() + vector * sparsity, sparsity);
      }
    }
  }
}

absl::Status EncodeKind(const KvLayout& layout, const kernels::PreparedDictionary& dictionary,
                        bool value, const float* rows, std::span<uint8_t* const> pages,
                        std::span<PageError> errors, const kernels::Stream& stream,
                        CoderScratch& scratch) {
  const int sparsity = value ? layout.page.sparsity_v : layout.page.sparsity_k;
  const int64_t vectors_per_page =
      static_cast<int64_t>(layout.page.page_tokens) * layout.shape.n_kv_heads;
  const int64_t n_vectors = vectors_per_page * static_cast<int64_t>(pages.size());
  scratch.atoms.resize(n_vectors * sparsity);
  scratch.coefs.resize(n_vectors * sparsity);
  scratch.errors.resize(n_vectors);
  int64_t n_non_finite = 0;
  kernels::OmpEncode({.x = {rows, {n_vectors, layout.shape.head_dim}},
                      .dictionary = &dictionary,
                      .sparsity = sparsity,
                      .atoms = {scratch.atoms.data(), {n_vectors, sparsity}},
                      .coefs = {scratch.coefs.data(), {n_vectors, sparsity}},
                      .rel_error = {scratch.errors.data(), {n_vectors}},
                      .n_non_finite = &n_non_finite},
                     stream);
  if (n_non_finite > 0) {
    return absl::InternalError(fmt::format("{} of {} {} vectors are not finite", n_non_finite,
                                           n_vectors, value ? "value" : "key"));
  }
  ScatterCodes(layout, value, scratch, pages);
  for (size_t page = 0; page < pages.size(); ++page) {
    double sum = 0;
    for (int64_t i = 0; i < vectors_per_page; ++i)
      sum += scratch.errors[page * vectors_per_page + i];
    const auto mean = static_cast<float>(sum / static_cast<double>(vectors_per_page));
    (value ? errors[page].v : errors[page].k) = mean;
  }
  return absl::OkStatus();
}

// Between rows [page_tokens, n_kv_heads, head_dim] F32 and half of a dense page, [n_kv_heads,
// page_tokens, head_dim] of the cache type: through head-major F32, so that one Convert serves the
// half.
void WriteDense(const KvLayout& layout, bool value, const float* rows, uint8_t* payload,
                const kernels::Stream& stream, std::vector<float>& head_major) {
  const kernels::PageLayout& page = layout.page;
  const int64_t dim = page.head_dim;
  const int64_t n = page.page_tokens * layout.shape.row_dim();
  head_major.resize(n);
  float* to = head_major.data();
  for (int head = 0; head < page.n_kv_heads; ++head) {
    for (int token = 0; token < page.page_tokens; ++token, to += dim) {
      const float* from = rows + (static_cast<int64_t>(token) * page.n_kv_heads + head) * dim;
      std::memcpy(to, from, dim * sizeof(float));
    }
  }
  kernels::Convert({head_major.data(), {n}},
                   {payload + page.head_offset(value, 0), page.dense_type, {n}}, stream);
}

void ReadDense(const KvLayout& layout, bool value, const uint8_t* payload, float* rows,
               const kernels::Stream& stream, std::vector<float>& head_major) {
  const kernels::PageLayout& page = layout.page;
  const int64_t dim = page.head_dim;
  const int64_t n = page.page_tokens * layout.shape.row_dim();
  head_major.resize(n);
  kernels::Convert({payload + page.head_offset(value, 0), page.dense_type, {n}},
                   {head_major.data(), {n}}, stream);
  const float* from = head_major.data();
  for (int head = 0; head < page.n_kv_heads; ++head) {
    for (int token = 0; token < page.page_tokens; ++token, from += dim) {
      float* to = rows + (static_cast<int64_t>(token) * page.n_kv_heads + head) * dim;
      std::memcpy(to, from, dim * sizeof(float));
    }
  }
}

}  // namespace

absl::Status EncodePages(const KvLayout& layout, const LayerDictionaries& dictionaries,
                         const float* k, const float* v, int layer,
                         std::span<uint8_t* const> blocks, std::span<PageError> errors,
                         const kernels::Stream& stream, CoderScratch& scratch) {
  LEXICO_CHECK_EQ(errors.size(), blocks.size());
  if (blocks.empty()) return absl::OkStatus();
  std::vector<uint8_t*> pages;
  for (uint8_t* block : blocks) pages.push_back(block + layout.page_offset(layer));
  if (layout.profile.is_dense()) {
    const int64_t page_values = layout.page.page_tokens * layout.shape.row_dim();
    for (size_t i = 0; i < pages.size(); ++i) {
      WriteDense(layout, false, k + i * page_values, pages[i], stream, scratch.rows);
      WriteDense(layout, true, v + i * page_values, pages[i], stream, scratch.rows);
      errors[i] = PageError{};
    }
    return absl::OkStatus();
  }
  const absl::Status coded =
      EncodeKind(layout, *dictionaries.k, false, k, pages, errors, stream, scratch);
  if (!coded.ok()) return coded;
  return EncodeKind(layout, *dictionaries.v, true, v, pages, errors, stream, scratch);
}

void DecodePages(const KvLayout& layout, const LayerDictionaries& dictionaries, bool value,
                 int layer, std::span<const uint8_t* const> blocks, float* rows,
                 const kernels::Stream& stream, CoderScratch& scratch) {
  if (blocks.empty()) return;
  std::vector<const uint8_t*> pages;
  for (const uint8_t* block : blocks) pages.push_back(block + layout.page_offset(layer));
  if (layout.profile.is_dense()) {
    const int64_t page_values = layout.page.page_tokens * layout.shape.row_dim();
    for (size_t i = 0; i < pages.size(); ++i) {
      ReadDense(layout, value, pages[i], rows + i * page_values, stream, scratch.rows);
    }
    return;
  }
  const auto n_pages = static_cast<int64_t>(pages.size());
  kernels::Reconstruct({.pages = pages.data(),
                        .n_pages = n_pages,
                        .layout = layout.page,
                        .dictionary = value ? dictionaries.v.get() : dictionaries.k.get(),
                        .value = value,
                        .out = {rows,
                                {n_pages * layout.page.page_tokens, layout.shape.n_kv_heads,
                                 layout.shape.head_dim}}},
                       stream);
}

}  // namespace lexico::worker

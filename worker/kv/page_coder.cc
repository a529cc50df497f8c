#include "worker/kv/page_coder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

#include "kernels/api/demote_codes.h"
#include "kernels/api/omp_encode.h"
#include "kernels/api/quantize_codes.h"
#include "kernels/api/reconstruct.h"
#include "kernels/api/rows.h"
#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::worker {

// One call: what its steps share.
class PageCoder {
 public:
  PageCoder(const KvLayout& layout, const kernels::Stream& stream, CoderScratch& scratch)
      : layout_(layout), stream_(stream), scratch_(scratch) {}

  // The page table, where ops read it.
  template <typename Block>
  Block* const* Table(std::span<Block* const> blocks) {
    Block** table = scratch_.pages_.Get<Block*>(static_cast<int64_t>(blocks.size()), stream_);
    stream_.Upload(table, blocks.data(), blocks.size_bytes());
    return table;
  }

  void EncodeKind(const kernels::PreparedDictionary* dictionary, bool value, const float* rows,
                  int layer, uint8_t* const* table, int64_t n_pages, const PageFindings& findings);

  // Codes of both kinds at a time, so that pages may be written where they were read
  // (page_coder.h).
  void DemoteKinds(const KvLayout& from, const LayerDictionaries& dictionaries, int layer,
                   const uint8_t* const* sources, uint8_t* const* targets, int64_t n_pages,
                   const PageFindings& findings);

  // For findings that go to the host.
  PageFindings Findings(int64_t n_pages) const {
    auto* errors = scratch_.page_errors_.Get<float>(2 * n_pages, stream_);
    auto* counters = scratch_.counters_.Get<int64_t>(2, stream_);
    stream_.Zero(counters, 2 * sizeof(*counters));
    return {.errors = {errors, errors + n_pages}, .n_non_finite = counters};
  }

  kernels::TensorView Rows(const float* rows, int64_t n_pages) const {
    return {rows, {n_pages * layout_.page.page_tokens, layout_.page.n_kv_heads, dim()}};
  }
  kernels::MutableTensorView MutableRows(float* rows, int64_t n_pages) const {
    return {rows, {n_pages * layout_.page.page_tokens, layout_.page.n_kv_heads, dim()}};
  }

 private:
  int64_t dim() const { return layout_.page.head_dim; }
  // What is stored of n_pages pages of one kind, in the order [page, token, head].
  struct Codes {
    const kernels::PreparedDictionary* dictionary = nullptr;
    bool value = false;
    const float* rows = nullptr;  // [n_vectors, head_dim], not read of the paper's code
    // [n_vectors, sparsity]; the paper's code takes `coefs`, others `coefficients`.
    kernels::MutableTensorView atoms;
    kernels::MutableTensorView coefs;
    kernels::MutableTensorView coefficients;
    kernels::MutableTensorView rel_error;  // [n_vectors]
  };
  void Store(const Codes& codes, int layer, uint8_t* const* table, int64_t n_pages,
             const PageFindings& findings);

  const KvLayout& layout_;
  const kernels::Stream& stream_;
  CoderScratch& scratch_;
};

void PageCoder::Store(const Codes& codes, int layer, uint8_t* const* table, int64_t n_pages,
                      const PageFindings& findings) {
  const kernels::PageLayout& page = layout_.page;
  float* const page_errors = findings.errors[codes.value ? 1 : 0];
  if (page.code(codes.value).is_paper()) {
    return kernels::PackCodes({.layout = page,
                               .value = codes.value,
                               .atoms = codes.atoms,
                               .coefs = codes.coefs,
                               .rel_error = codes.rel_error,
                               .pages = table,
                               .page_offset = layout_.page_offset(layer),
                               .page_error = page_errors},
                              stream_);
  }
  const int64_t n_vectors = n_pages * page.page_tokens * page.n_kv_heads;
  kernels::QuantizeCodes({.layout = page,
                          .value = codes.value,
                          .dictionary = codes.dictionary,
                          .x = {codes.rows, {n_vectors, dim()}},
                          .atoms = codes.atoms,
                          .coefficients = codes.coefficients,
                          .pages = table,
                          .page_offset = layout_.page_offset(layer),
                          .page_error = page_errors,
                          .n_non_finite = findings.n_non_finite + (codes.value ? 1 : 0)},
                         stream_);
}

void PageCoder::EncodeKind(const kernels::PreparedDictionary* dictionary, bool value,
                           const float* rows, int layer, uint8_t* const* table, int64_t n_pages,
                           const PageFindings& findings) {
  const kernels::PageLayout& page = layout_.page;
  const kernels::VectorCode code = page.code(value);
  const int sparsity = code.sparsity;
  const int64_t n_vectors = n_pages * page.page_tokens * page.n_kv_heads;
  Codes codes{.dictionary = dictionary, .value = value, .rows = rows};
  if (sparsity > 0) {
    const int64_t n_codes = n_vectors * sparsity;
    codes.atoms = {scratch_.atoms_.Get<uint16_t>(n_codes, stream_), {n_vectors, sparsity}};
    codes.coefs = {scratch_.coefs_.Get<uint8_t>(n_codes, stream_), {n_vectors, sparsity}};
    codes.rel_error = {scratch_.errors_.Get<float>(n_vectors, stream_), {n_vectors}};
    if (!code.is_paper()) {
      codes.coefficients = {scratch_.exact_coefs_.Get<float>(n_codes, stream_),
                            {n_vectors, sparsity}};
    }
    kernels::OmpEncode(
        {.x = {rows, {n_vectors, dim()}},
         .dictionary = dictionary,
         .sparsity = sparsity,
         .atoms = codes.atoms,
         .coefs = codes.coefs,
         .rel_error = codes.rel_error,
         .coefficients = codes.coefficients,
         .n_non_finite = code.is_paper() ? findings.n_non_finite + (value ? 1 : 0) : nullptr},
        stream_);
  }
  Store(codes, layer, table, n_pages, findings);
}

void PageCoder::DemoteKinds(const KvLayout& from, const LayerDictionaries& dictionaries, int layer,
                            const uint8_t* const* sources, uint8_t* const* targets, int64_t n_pages,
                            const PageFindings& findings) {
  const kernels::PageLayout& page = layout_.page;
  const int64_t n_vectors = n_pages * page.page_tokens * page.n_kv_heads;
  const auto source_offset = static_cast<int64_t>(from.page_offset(layer));
  const int64_t n_codes = n_vectors * (page.sparsity_k + page.sparsity_v);
  auto* const atoms = scratch_.atoms_.Get<uint16_t>(n_codes, stream_);
  auto* const coefs = scratch_.coefs_.Get<uint8_t>(n_codes, stream_);
  auto* const errors = scratch_.errors_.Get<float>(2 * n_vectors, stream_);
  const bool is_quantized = !page.is_paper();  // QuantizeCodes takes rows and exact coefficients
  float* const exact = is_quantized ? scratch_.exact_coefs_.Get<float>(n_codes, stream_) : nullptr;
  float* const rows =
      is_quantized ? scratch_.rows_.Get<float>(2 * n_vectors * dim(), stream_) : nullptr;
  Codes kinds[2];
  for (const bool value : {false, true}) {
    const int sparsity = page.code(value).sparsity;
    const int64_t first = value ? n_vectors * page.sparsity_k : 0;
    Codes& codes = kinds[value ? 1 : 0];
    codes.dictionary = value ? dictionaries.v.get() : dictionaries.k.get();
    codes.value = value;
    if (!page.code(value).is_paper()) {
      float* const own = rows + (value ? n_vectors * dim() : 0);
      kernels::Reconstruct({.pages = sources,
                            .n_pages = n_pages,
                            .page_offset = source_offset,
                            .layout = from.page,
                            .dictionary = codes.dictionary,
                            .value = value,
                            .out = MutableRows(own, n_pages)},
                           stream_);
      codes.rows = own;
    }
    if (sparsity == 0) continue;
    codes.atoms = {atoms + first, {n_vectors, sparsity}};
    codes.coefs = {coefs + first, {n_vectors, sparsity}};
    codes.rel_error = {errors + (value ? n_vectors : 0), {n_vectors}};
    if (is_quantized) codes.coefficients = {exact + first, {n_vectors, sparsity}};
    kernels::DemoteCodes({.pages = sources,
                          .n_pages = n_pages,
                          .page_offset = source_offset,
                          .layout = from.page,
                          .value = value,
                          .dictionary = codes.dictionary,
                          .sparsity = sparsity,
                          .atoms = codes.atoms,
                          .coefs = codes.coefs,
                          .rel_error = codes.rel_error,
                          .coefficients = codes.coefficients},
                         stream_);
  }
  for (const Codes& codes : kinds) Store(codes, layer, targets, n_pages, findings);
}

absl::Status CoderScratch::Reserve(const KvLayout& layout, int64_t n_pages,
                                   const kernels::Stream& stream) {
  const kernels::PageLayout& page = layout.page;
  const int64_t n_vectors = n_pages * page.page_tokens * page.n_kv_heads;
  const int64_t n_codes = n_vectors * std::max(page.sparsity_k, page.sparsity_v);
  LEXICO_RETURN_IF_ERROR(atoms_.Reserve(n_codes * sizeof(uint16_t), stream));
  LEXICO_RETURN_IF_ERROR(coefs_.Reserve(n_codes, stream));
  LEXICO_RETURN_IF_ERROR(exact_coefs_.Reserve(n_codes * sizeof(float), stream));
  LEXICO_RETURN_IF_ERROR(errors_.Reserve(n_vectors * sizeof(float), stream));
  LEXICO_RETURN_IF_ERROR(page_errors_.Reserve(2 * n_pages * sizeof(float), stream));
  LEXICO_RETURN_IF_ERROR(pages_.Reserve(n_pages * sizeof(void*), stream));
  LEXICO_RETURN_IF_ERROR(counters_.Reserve(2 * sizeof(int64_t), stream));
  return rows_.Reserve(2 * n_vectors * page.head_dim * sizeof(float), stream);
}

LayerDictionaries DictionariesForCoding(const KvLayout& layout, const LayerDictionaries& own,
                                        int64_t n_vectors, const kernels::Stream& stream) {
  const auto form = [&](const std::shared_ptr<const kernels::PreparedDictionary>& dictionary,
                        int sparsity) {
    return sparsity == 0 ? dictionary
                         : kernels::DictionaryForCoding(dictionary, n_vectors, sparsity, stream);
  };
  return {form(own.k, layout.page.sparsity_k), form(own.v, layout.page.sparsity_v)};
}

void EnqueuePages(const KvLayout& layout, const LayerDictionaries& dictionaries, const float* k,
                  const float* v, int layer, uint8_t* const* pages, int64_t n_pages,
                  const PageFindings& findings, const kernels::Stream& stream,
                  CoderScratch& scratch) {
  PageCoder coder(layout, stream, scratch);
  if (!layout.profile.is_dense()) {
    coder.EncodeKind(dictionaries.k.get(), false, k, layer, pages, n_pages, findings);
    coder.EncodeKind(dictionaries.v.get(), true, v, layer, pages, n_pages, findings);
    return;
  }
  for (const bool value : {false, true}) {
    kernels::PackDense({.layout = layout.page,
                        .value = value,
                        .rows = coder.Rows(value ? v : k, n_pages),
                        .pages = pages,
                        .page_offset = layout.page_offset(layer)},
                       stream);
  }
}

absl::Status CheckFinite(std::span<const int64_t, 2> n_non_finite, int64_t n_vectors) {
  for (const bool value : {false, true}) {
    const int64_t n = n_non_finite[value ? 1 : 0];
    if (n == 0) continue;
    return absl::InternalError(
        fmt::format("{} of {} {} vectors are not finite", n, n_vectors, value ? "value" : "key"));
  }
  return absl::OkStatus();
}

absl::Status EncodePages(const KvLayout& layout, const LayerDictionaries& dictionaries,
                         const float* k, const float* v, int layer,
                         std::span<uint8_t* const> blocks, std::span<PageError> errors,
                         const kernels::Stream& stream, CoderScratch& scratch) {
  LEXICO_CHECK_EQ(errors.size(), blocks.size());
  if (blocks.empty()) return absl::OkStatus();
  PageCoder coder(layout, stream, scratch);
  const auto n_pages = std::ssize(blocks);
  const PageFindings findings = coder.Findings(n_pages);
  EnqueuePages(layout, dictionaries, k, v, layer, coder.Table(blocks), n_pages, findings, stream,
               scratch);
  std::fill(errors.begin(), errors.end(), PageError{});
  if (layout.profile.is_dense()) return absl::OkStatus();
  std::array<int64_t, 2> n_non_finite;
  stream.Download(n_non_finite.data(), findings.n_non_finite, sizeof(n_non_finite));
  LEXICO_RETURN_IF_ERROR(
      CheckFinite(n_non_finite, n_pages * layout.page.page_tokens * layout.page.n_kv_heads));
  std::vector<float> means(2 * n_pages);
  stream.Download(means.data(), findings.errors[0], means.size() * sizeof(float));
  for (int64_t i = 0; i < n_pages; ++i) errors[i] = {means[i], means[n_pages + i]};
  return absl::OkStatus();
}

void DemotePages(const KvLayout& from, const KvLayout& to, const LayerDictionaries& dictionaries,
                 int layer, std::span<const uint8_t* const> sources,
                 std::span<uint8_t* const> targets, std::span<PageError> errors,
                 const kernels::Stream& stream, CoderScratch& scratch) {
  LEXICO_CHECK_EQ(sources.size(), targets.size());
  LEXICO_CHECK_EQ(errors.size(), targets.size());
  if (targets.empty()) return;
  PageCoder coder(to, stream, scratch);
  const auto n_pages = std::ssize(targets);
  const PageFindings findings = coder.Findings(n_pages);
  // One table: those that are only read, then those that are written.
  std::vector<uint8_t*> blocks;
  for (const uint8_t* source : sources) blocks.push_back(const_cast<uint8_t*>(source));
  blocks.insert(blocks.end(), targets.begin(), targets.end());
  uint8_t* const* table = coder.Table(std::span<uint8_t* const>(blocks));
  coder.DemoteKinds(from, dictionaries, layer, table, table + n_pages, n_pages, findings);
  std::vector<float> means(2 * n_pages);
  stream.Download(means.data(), findings.errors[0], means.size() * sizeof(float));
  for (int64_t i = 0; i < n_pages; ++i) errors[i] = {means[i], means[n_pages + i]};
}

void DecodePages(const KvLayout& layout, const LayerDictionaries& dictionaries, bool value,
                 int layer, std::span<const uint8_t* const> blocks, float* rows,
                 const kernels::Stream& stream, CoderScratch& scratch) {
  if (blocks.empty()) return;
  PageCoder coder(layout, stream, scratch);
  const auto n_pages = static_cast<int64_t>(blocks.size());
  const uint8_t* const* table = coder.Table(blocks);
  if (layout.profile.is_dense()) {
    return kernels::UnpackDense({.layout = layout.page,
                                 .value = value,
                                 .pages = table,
                                 .page_offset = layout.page_offset(layer),
                                 .rows = coder.MutableRows(rows, n_pages)},
                                stream);
  }
  kernels::Reconstruct({.pages = table,
                        .n_pages = n_pages,
                        .page_offset = static_cast<int64_t>(layout.page_offset(layer)),
                        .layout = layout.page,
                        .dictionary = value ? dictionaries.v.get() : dictionaries.k.get(),
                        .value = value,
                        .out = coder.MutableRows(rows, n_pages)},
                       stream);
}

}  // namespace lexico::worker

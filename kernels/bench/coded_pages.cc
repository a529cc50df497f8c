#include "kernels/bench/coded_pages.h"

#include <algorithm>
#include <random>

#include "kernels/api/omp_encode.h"
#include "kernels/api/quantize_codes.h"
#include "kernels/api/rows.h"
#include "kernels/bench/bench_data.h"
#include "proto/base/check.h"
#include "proto/base/profile.h"

namespace lexico::kernels::bench {
namespace {

template <typename T>
DeviceBuffer Upload(const std::vector<T>& values, const Stream& stream) {
  return UploadToDevice(values.data(), values.size() * sizeof(T), stream);
}

}  // namespace

PageLayout LayoutOf(std::string_view profile, int n_kv_heads, int head_dim) {
  const auto parsed = base::ParseProfile(profile);
  LEXICO_CHECK(parsed.ok());
  return {.n_kv_heads = n_kv_heads,
          .head_dim = head_dim,
          .page_tokens = 32,
          .sparsity_k = parsed->k.sparsity,
          .sparsity_v = parsed->v.sparsity,
          .form_k = parsed->k.form,
          .form_v = parsed->v.form};
}

RandomPursuits::RandomPursuits(int64_t n, int n_places, int n_atoms, int dim, int seed,
                               const Stream& stream)
    : n_vectors(n), sparsity(n_places), head_dim(dim) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(n * dim);
  for (float& number : numbers) number = normal(random);
  std::vector<uint16_t> indices;
  std::vector<float> exact;
  std::vector<uint8_t> rounded;
  for (int64_t i = 0; i < n * n_places; ++i) {
    indices.push_back(static_cast<uint16_t>(random() % n_atoms));
    exact.push_back(normal(random));
    rounded.push_back(FloatToE4m3(exact.back()));
  }
  x = Upload(numbers, stream);
  atoms = Upload(indices, stream);
  coefs = Upload(rounded, stream);
  coefficients = Upload(exact, stream);
  errors = Upload(std::vector<float>(n), stream);
}

void StoreHalf::Run(const RandomPursuits& from, int64_t n_pages, const Stream& stream) const {
  const int64_t n = n_pages * layout.page_tokens * layout.n_kv_heads;
  LEXICO_CHECK_LE(n, from.n_vectors);
  if (layout.code(value).is_paper()) {
    return PackCodes({.layout = layout,
                      .value = value,
                      .atoms = {from.atoms.as<uint16_t>(), {n, from.sparsity}},
                      .coefs = {from.coefs.as<uint8_t>(), {n, from.sparsity}},
                      .rel_error = {from.errors.as<float>(), {n}},
                      .pages = pages,
                      .page_error = page_error},
                     stream);
  }
  QuantizeCodes({.layout = layout,
                 .value = value,
                 .dictionary = dictionary,
                 .x = {from.x.as<float>(), {n, from.head_dim}},
                 .atoms = {from.atoms.as<uint16_t>(), {n, from.sparsity}},
                 .coefficients = {from.coefficients.as<float>(), {n, from.sparsity}},
                 .pages = pages,
                 .page_error = page_error,
                 .n_non_finite = n_non_finite},
                stream);
}

PagePool::PagePool(const PageLayout& layout, int64_t n_pages, const PreparedDictionary* dictionary,
                   int n_atoms, const Stream& stream)
    : memory_(AllocateOnDevice(n_pages * layout.payload_bytes(), stream)) {
  std::vector<uint8_t*> addresses;
  for (int64_t p = 0; p < n_pages; ++p) {
    addresses.push_back(memory_.as<uint8_t>() + p * layout.payload_bytes());
  }
  table_ = Upload(addresses, stream);
  const int64_t n_distinct = std::min(n_pages, kDistinctPages);
  const int64_t n_vectors = n_distinct * layout.page_tokens * layout.n_kv_heads;
  const DeviceBuffer page_errors = AllocateOnDevice(n_distinct * sizeof(float), stream);
  const DeviceBuffer n_non_finite = Upload(std::vector<int64_t>(1), stream);
  for (const bool value : {false, true}) {
    const RandomPursuits from(n_vectors, layout.code(value).sparsity, n_atoms, layout.head_dim,
                              value ? 2 : 1, stream);
    for (int64_t first = 0; first < n_pages; first += n_distinct) {
      const StoreHalf half = {.layout = layout,
                              .value = value,
                              .dictionary = dictionary,
                              .pages = table_.as<uint8_t*>() + first,
                              .page_error = page_errors.as<float>(),
                              .n_non_finite = n_non_finite.as<int64_t>()};
      half.Run(from, std::min(n_distinct, n_pages - first), stream);
    }
    stream.Synchronize();
  }
}

}  // namespace lexico::kernels::bench

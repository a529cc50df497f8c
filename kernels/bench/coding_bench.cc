// What coding costs beside the pursuit, on either device: the store of codes into pages, PackCodes
// of the paper's and QuantizeCodes of the others, next to the pursuit of as many atoms.
#include <fmt/format.h>

#include <string_view>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/bench/bench_data.h"
#include "kernels/bench/coded_pages.h"
#include "kernels/bench/suites.h"

namespace lexico::kernels::bench {
namespace {

constexpr int kKvHeads = 8;

void MeasurePursuit(Bench& bench, const BenchDictionary& dictionary, int64_t n_vectors,
                    int sparsity) {
  const Stream& stream = bench.stream();
  const std::vector<float> x = SparseVectors(dictionary, n_vectors);
  const DeviceBuffer vectors = UploadToDevice(x.data(), x.size() * sizeof(float), stream);
  const DeviceBuffer atoms = AllocateOnDevice(n_vectors * sparsity * sizeof(uint16_t), stream);
  const DeviceBuffer coefs = AllocateOnDevice(n_vectors * sparsity, stream);
  const DeviceBuffer errors = AllocateOnDevice(n_vectors * sizeof(float), stream);
  const DeviceBuffer exact = AllocateOnDevice(n_vectors * sparsity * sizeof(float), stream);
  Case work;
  work.shape = fmt::format("pursuit of {} atoms, {} vectors", sparsity, n_vectors);
  work.item_name = "vectors";
  work.items = static_cast<double>(n_vectors);
  bench.Measure("omp_encode", work, [&] {
    OmpEncode({.x = {vectors.as<float>(), {n_vectors, dictionary.head_dim}},
               .dictionary = dictionary.prepared.get(),
               .sparsity = sparsity,
               .atoms = {atoms.as<uint16_t>(), {n_vectors, sparsity}},
               .coefs = {coefs.as<uint8_t>(), {n_vectors, sparsity}},
               .rel_error = {errors.as<float>(), {n_vectors}},
               .coefficients = {exact.as<float>(), {n_vectors, sparsity}}},
              stream);
  });
}

// The keys of n_pages pages.
void MeasureStore(Bench& bench, const BenchDictionary& dictionary, int64_t n_pages,
                  std::string_view profile) {
  const Stream& stream = bench.stream();
  const PageLayout layout = LayoutOf(profile, kKvHeads, dictionary.head_dim);
  const VectorCode code = layout.code(false);
  const int64_t n_vectors = n_pages * layout.page_tokens * kKvHeads;
  const RandomPursuits from(n_vectors, code.sparsity, dictionary.prepared->n_atoms(),
                            dictionary.head_dim, 1, stream);
  const DeviceBuffer memory = AllocateOnDevice(n_pages * layout.payload_bytes(), stream);
  std::vector<uint8_t*> addresses;
  for (int64_t p = 0; p < n_pages; ++p) {
    addresses.push_back(memory.as<uint8_t>() + p * layout.payload_bytes());
  }
  const DeviceBuffer table =
      UploadToDevice(addresses.data(), addresses.size() * sizeof(addresses[0]), stream);
  const DeviceBuffer errors = AllocateOnDevice(n_pages * sizeof(float), stream);
  const int64_t none = 0;
  const DeviceBuffer n_non_finite = UploadToDevice(&none, sizeof(none), stream);
  const StoreHalf half = {.layout = layout,
                          .dictionary = dictionary.prepared.get(),
                          .pages = table.as<uint8_t*>(),
                          .page_error = errors.as<float>(),
                          .n_non_finite = n_non_finite.as<int64_t>()};
  Case work;
  work.shape = fmt::format("{}, {} pages of 32 tokens and 8 heads", profile, n_pages);
  work.item_name = "vectors";
  work.items = static_cast<double>(n_vectors);
  work.bytes = static_cast<double>(n_vectors) *
               (static_cast<double>(code.bytes(dictionary.head_dim)) + 6.0 * code.sparsity +
                (code.is_paper() ? 0.0 : 4.0 * dictionary.head_dim));
  bench.Measure(code.is_paper() ? "pack_codes" : "quantize_codes", work,
                [&] { half.Run(from, n_pages, stream); });
}

void Measure(Bench& bench, int64_t n_pages) {
  const BenchDictionary dictionary = LoadBenchDictionary(4096, bench.stream());
  for (const int sparsity : {4, 16}) {
    MeasurePursuit(bench, dictionary, n_pages * 32 * kKvHeads, sparsity);
  }
  for (const char* profile : {"paper-s16", "kv4r1", "kv2r2u", "kv16", "kv16u", "kv0r3u"}) {
    MeasureStore(bench, dictionary, n_pages, profile);
  }
}

}  // namespace

void CodingSuite(Bench& bench) { Measure(bench, 16); }

void CodingGpuSuite(Bench& bench) {
  for (const int64_t n_pages : {1, 512}) Measure(bench, n_pages);
}

}  // namespace lexico::kernels::bench

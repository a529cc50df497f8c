// Decode attention over codes on a GPU, on the attention of an 8B model: 32 query and 8 KV heads of
// 128. gpu_attention_peer.py times dense attention on the same shapes.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/api/rows.h"
#include "kernels/api/sparse_attention.h"
#include "kernels/bench/bench_data.h"
#include "kernels/bench/suites.h"

namespace lexico::kernels::bench {
namespace {

constexpr int kHeads = 32;
constexpr int kKvHeads = 8;
// The layers of a case hold this much together: several times an L2 of 60 MB.
constexpr int64_t kLayersBytes = int64_t{256} << 20;
constexpr int64_t kDistinctPages = 1024;

struct RandomCodes {
  RandomCodes(int64_t n, int n_atoms, int seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < n; ++i) {
      atoms.push_back(static_cast<uint16_t>(random() % n_atoms));
      coefs.push_back(FloatToE4m3(normal(random)));
    }
  }
  std::vector<uint16_t> atoms;
  std::vector<uint8_t> coefs;
};

// n_pages pages of random codes, of which kDistinctPages differ, each in memory of its own, packed
// as a worker's are.
struct PagePool {
  PagePool(const PageLayout& layout, int64_t n_pages, int n_atoms, const Stream& stream)
      : memory(AllocateOnDevice(n_pages * layout.payload_bytes(), stream)) {
    std::vector<uint8_t*> addresses;
    for (int64_t p = 0; p < n_pages; ++p) {
      addresses.push_back(memory.as<uint8_t>() + p * layout.payload_bytes());
    }
    table = UploadToDevice(addresses.data(), addresses.size() * sizeof(addresses[0]), stream);
    const int64_t n_distinct = std::min(n_pages, kDistinctPages);
    const int64_t n_vectors = n_distinct * layout.page_tokens * layout.n_kv_heads;
    const std::vector<float> no_errors(n_vectors);
    const DeviceBuffer errors =
        UploadToDevice(no_errors.data(), no_errors.size() * sizeof(float), stream);
    const DeviceBuffer page_errors = AllocateOnDevice(n_distinct * sizeof(float), stream);
    for (const bool value : {false, true}) {
      const int sparsity = value ? layout.sparsity_v : layout.sparsity_k;
      const RandomCodes codes(n_vectors * sparsity, n_atoms, value ? 2 : 1);
      const DeviceBuffer atoms =
          UploadToDevice(codes.atoms.data(), codes.atoms.size() * sizeof(uint16_t), stream);
      const DeviceBuffer coefs = UploadToDevice(codes.coefs.data(), codes.coefs.size(), stream);
      for (int64_t first = 0; first < n_pages; first += n_distinct) {
        const int64_t n = std::min(n_distinct, n_pages - first) * n_vectors / n_distinct;
        PackCodes({.layout = layout,
                   .value = value,
                   .atoms = {atoms.as<uint16_t>(), {n, sparsity}},
                   .coefs = {coefs.as<uint8_t>(), {n, sparsity}},
                   .rel_error = {errors.as<float>(), {n}},
                   .pages = table.as<uint8_t*>() + first,
                   .page_error = page_errors.as<float>()},
                  stream);
      }
    }
    stream.Synchronize();
  }
  DeviceBuffer memory;
  DeviceBuffer table;
};

void Measure(Bench& bench, const BenchDictionary& dictionary, int64_t n_seqs, int64_t n_tokens,
             int sparsity) {
  const Stream& stream = bench.stream();
  const int head_dim = dictionary.head_dim;
  const int n_atoms = dictionary.prepared->n_atoms();
  const PageLayout layout{.n_kv_heads = kKvHeads,
                          .head_dim = head_dim,
                          .page_tokens = 32,
                          .sparsity_k = sparsity,
                          .sparsity_v = sparsity};
  const int64_t n_pages = n_seqs * (n_tokens / layout.page_tokens);
  const int64_t page_bytes = n_pages * static_cast<int64_t>(layout.payload_bytes());
  const auto n_layers = static_cast<int>(std::max<int64_t>(1, kLayersBytes / page_bytes));
  const PagePool pool(layout, n_pages * n_layers, n_atoms, stream);
  std::vector<std::shared_ptr<const PreparedDictionary>> dictionaries;
  for (int i = 0; i < 2 * n_layers; ++i) dictionaries.push_back(PrepareAtoms(dictionary, stream));
  std::vector<int64_t> page_begin;
  for (int64_t i = 0; i <= n_seqs; ++i) page_begin.push_back(i * (n_pages / n_seqs));

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(n_seqs * kHeads * head_dim);
  for (float& value : q) value = normal(random);
  const DeviceBuffer queries = UploadToDevice(q.data(), q.size() * sizeof(float), stream);
  const DeviceBuffer out = AllocateOnDevice(queries.bytes(), stream);
  const DeviceBuffer max_score = AllocateOnDevice(n_seqs * kHeads * sizeof(float), stream);
  const DeviceBuffer sum_exp = AllocateOnDevice(n_seqs * kHeads * sizeof(float), stream);
  SparseAttentionArgs args;
  args.q = TensorView(queries.as<float>(), {n_seqs, kHeads, head_dim});
  args.page_begin = page_begin.data();
  args.layout = layout;
  args.scale = 1 / std::sqrt(static_cast<float>(head_dim));
  args.out = MutableTensorView(out.as<float>(), {n_seqs, kHeads, head_dim});
  args.max_score = MutableTensorView(max_score.as<float>(), {n_seqs, kHeads});
  args.sum_exp = MutableTensorView(sum_exp.as<float>(), {n_seqs, kHeads});

  Case work;
  work.shape = fmt::format("{} x {} tokens, n_atoms {}, sparsity {}, {} layers", n_seqs, n_tokens,
                           n_atoms, sparsity, n_layers);
  work.item_name = "tokens";
  work.items = static_cast<double>(n_layers * n_seqs * n_tokens);
  work.bytes = n_layers * (page_bytes + 2.0 * n_atoms * head_dim * sizeof(float));
  work.flops = n_layers * n_seqs * kHeads * (4.0 * n_atoms * head_dim + 4.0 * n_tokens * sparsity);
  Result& result = bench.Measure("sparse_attention", work, [&] {
    for (int layer = 0; layer < n_layers; ++layer) {
      args.pages = pool.table.as<const uint8_t*>() + layer * n_pages;
      args.dictionary_k = dictionaries[2 * layer].get();
      args.dictionary_v = dictionaries[2 * layer + 1].get();
      SparseAttention(args, stream);
    }
  });
  result.note = fmt::format("{:.1f} us a layer", result.median_us / n_layers);
}

}  // namespace

void SparseAttentionGpuSuite(Bench& bench) {
  const BenchDictionary dictionary = LoadBenchDictionary(4096, bench.stream());
  constexpr int64_t kShapes[][2] = {{1, 4096}, {1, 8192},  {1, 32768}, {1, 131072},
                                    {8, 4096}, {8, 32768}, {32, 8192}, {16, 131072}};
  for (const int sparsity : {16, 8}) {
    for (const auto& [n_seqs, n_tokens] : kShapes) {
      Measure(bench, dictionary, n_seqs, n_tokens, sparsity);
    }
  }
  Measure(bench, LoadBenchDictionary(1024, bench.stream()), 1, 131072, 16);
}

}  // namespace lexico::kernels::bench

// Decode attention over codes on a GPU, on the attention of an 8B model: 32 query and 8 KV heads of
// 128. gpu_attention_peer.py times dense attention on the same shapes.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/api/sparse_attention.h"
#include "kernels/bench/bench_data.h"
#include "kernels/bench/coded_pages.h"
#include "kernels/bench/suites.h"

namespace lexico::kernels::bench {
namespace {

constexpr int kHeads = 32;
constexpr int kKvHeads = 8;
// The layers of a case hold this much together: several times an L2 of 60 MB.
constexpr int64_t kLayersBytes = int64_t{256} << 20;

void Measure(Bench& bench, const BenchDictionary& dictionary, int64_t n_seqs, int64_t n_tokens,
             std::string_view profile) {
  const Stream& stream = bench.stream();
  const int head_dim = dictionary.head_dim;
  const int n_atoms = dictionary.prepared->n_atoms();
  const PageLayout layout = LayoutOf(profile, kKvHeads, head_dim);
  const int64_t n_pages = n_seqs * (n_tokens / layout.page_tokens);
  const int64_t page_bytes = n_pages * static_cast<int64_t>(layout.payload_bytes());
  const auto n_layers = static_cast<int>(std::max<int64_t>(1, kLayersBytes / page_bytes));
  const PagePool pool(layout, n_pages * n_layers, dictionary.prepared.get(), n_atoms, stream);
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
  work.shape = fmt::format("{}, {} x {} tokens, n_atoms {}, {} layers", profile, n_seqs, n_tokens,
                           n_atoms, n_layers);
  work.item_name = "tokens";
  work.items = static_cast<double>(n_layers * n_seqs * n_tokens);
  double bytes = static_cast<double>(page_bytes);
  double flops = 0;
  for (const bool value : {false, true}) {
    const VectorCode code = layout.code(value);
    if (code.sparsity > 0) bytes += static_cast<double>(n_atoms) * head_dim * sizeof(float);
    if (code.sparsity > 0) flops += 2.0 * n_atoms * head_dim;
    // A residual, if it were read as it is used: a multiply-add a number.
    const int terms = code.sparsity + (code.has_residual() ? head_dim : 0);
    flops += 2.0 * static_cast<double>(n_tokens) * terms;
  }
  work.bytes = n_layers * bytes;
  work.flops = static_cast<double>(n_layers * n_seqs * kHeads) * flops;
  Result& result = bench.Measure("sparse_attention", work, [&] {
    for (int layer = 0; layer < n_layers; ++layer) {
      args.pages = pool.pages() + layer * n_pages;
      args.dictionary_k = dictionaries[2 * layer].get();
      args.dictionary_v = dictionaries[2 * layer + 1].get();
      SparseAttention(args, stream);
    }
  });
  const double layer_us = result.median_us / n_layers;
  result.note = fmt::format("{:.1f} us a layer, {:.3f} ns a kilobyte of codes", layer_us,
                            layer_us * 1e6 / static_cast<double>(page_bytes));
}

}  // namespace

void SparseAttentionGpuSuite(Bench& bench) {
  const BenchDictionary dictionary = LoadBenchDictionary(4096, bench.stream());
  constexpr int64_t kShapes[][2] = {{1, 4096}, {1, 8192},  {1, 32768}, {1, 131072},
                                    {8, 4096}, {8, 32768}, {32, 8192}, {16, 131072}};
  for (const char* profile : {"paper-s16", "paper-s8"}) {
    for (const auto& [n_seqs, n_tokens] : kShapes) {
      Measure(bench, dictionary, n_seqs, n_tokens, profile);
    }
  }
  // Members of the family between two runs of the paper's.
  for (const char* profile : {"paper-s16", "k2r2u-v4r1", "kv4r1", "kv16", "kv0r1", "kv0r2u",
                              "kv0r3u", "k0r3u-v8", "paper-s16"}) {
    for (const auto& [n_seqs, n_tokens] : {std::pair{1, 4096}, {1, 131072}, {8, 32768}}) {
      Measure(bench, dictionary, n_seqs, n_tokens, profile);
    }
  }
  Measure(bench, LoadBenchDictionary(1024, bench.stream()), 1, 131072, "paper-s16");
}

}  // namespace lexico::kernels::bench

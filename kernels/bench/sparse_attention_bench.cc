#include <fmt/format.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/api/sparse_attention.h"
#include "kernels/bench/bench_data.h"
#include "kernels/bench/suites.h"

namespace lexico::kernels::bench {
namespace {

// One decode step of a model with 8 query heads and 2 KV heads of 128 (the embedded model's
// attention), over the pages and dictionaries of all its layers, so that both come from memory as
// they do in a real step and not from a cache warmed by the previous call.
void Measure(Bench& bench, const BenchDictionary& dictionary, int64_t n_tokens,
             const VectorCode& code) {
  constexpr int kLayers = 8;
  constexpr int kHeads = 8;
  const int head_dim = dictionary.head_dim;
  const int n_atoms = dictionary.prepared->n_atoms();
  const PageLayout layout{.n_kv_heads = 2,
                          .head_dim = head_dim,
                          .page_tokens = 32,
                          .sparsity_k = code.sparsity,
                          .sparsity_v = code.sparsity,
                          .form_k = code.form,
                          .form_v = code.form};
  const int64_t n_pages = n_tokens / layout.page_tokens;
  const auto pages = RandomPages(layout, n_pages * kLayers, n_atoms);
  std::vector<const uint8_t*> pointers;
  for (const auto& page : pages) pointers.push_back(page.data());
  const int64_t page_begin[] = {0, n_pages};

  std::vector<std::shared_ptr<const PreparedDictionary>> dictionaries;
  for (int i = 0; i < 2 * kLayers; ++i) {
    dictionaries.push_back(PrepareAtoms(dictionary, bench.stream()));
  }

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(kHeads * head_dim);
  for (float& value : q) value = normal(random);
  std::vector<float> out(q.size());
  std::vector<float> max_score(kHeads);
  std::vector<float> sum_exp(kHeads);
  SparseAttentionArgs args;
  args.q = TensorView(q.data(), {1, kHeads, head_dim});
  args.page_begin = page_begin;
  args.layout = layout;
  args.scale = 1 / std::sqrt(static_cast<float>(head_dim));
  args.out = MutableTensorView(out.data(), {1, kHeads, head_dim});
  args.max_score = MutableTensorView(max_score.data(), {1, kHeads});
  args.sum_exp = MutableTensorView(sum_exp.data(), {1, kHeads});

  Case work;
  work.shape = fmt::format(
      "{} layers, {} tokens, n_atoms {}, sparsity {}, {} bits, residual {}, heads 8/2 of {}",
      kLayers, n_tokens, n_atoms, code.sparsity, code.form.coefficient_bits,
      code.form.residual_bits, head_dim);
  work.item_name = "tokens";
  work.items = static_cast<double>(n_tokens);
  work.bytes = static_cast<double>(kLayers) *
               (n_pages * layout.payload_bytes() +
                (code.sparsity > 0 ? 2.0 * n_atoms * head_dim * sizeof(uint16_t) : 0));
  // A residual, if it were read as it is used: a multiply-add a number of K, and of V.
  const double token_flops = 4.0 * code.sparsity + (code.has_residual() ? 4.0 * head_dim : 0);
  const double product_flops = code.sparsity > 0 ? 4.0 * n_atoms * head_dim : 0;
  work.flops = kLayers * kHeads * (product_flops + n_tokens * token_flops);
  Result& result = bench.Measure("sparse_attention", work, [&] {
    for (int layer = 0; layer < kLayers; ++layer) {
      args.pages = pointers.data() + layer * n_pages;
      args.dictionary_k = dictionaries[2 * layer].get();
      args.dictionary_v = dictionaries[2 * layer + 1].get();
      SparseAttention(args, bench.stream());
    }
  });
  result.note = fmt::format(
      "{:.1f} ns a token, layer and KV head",
      result.median_us * 1e3 / (static_cast<double>(n_tokens) * kLayers * layout.n_kv_heads));
}

}  // namespace

void SparseAttentionSuite(Bench& bench) {
  for (const int n_atoms : {1024, 4096}) {
    const BenchDictionary dictionary = LoadBenchDictionary(n_atoms, bench.stream());
    for (const int sparsity : {8, 16}) Measure(bench, dictionary, 16384, {sparsity, {}});
  }
  const BenchDictionary dictionary = LoadBenchDictionary(4096, bench.stream());
  Measure(bench, dictionary, 1024, {16, {}});
  for (const VectorCode& code :
       {VectorCode{16, {4, 0}}, {0, {8, 1}}, {4, {4, 1}}, {0, {8, 2}}, {2, {4, 2}}, {0, {8, 3}}}) {
    Measure(bench, dictionary, 16384, code);
  }
}

}  // namespace lexico::kernels::bench

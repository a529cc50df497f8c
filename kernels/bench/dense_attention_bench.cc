// Decode attention over dense keys and values, and causal prefill attention, in the shape of the
// embedded model: 8 query heads, 2 KV heads, head_dim 128. The peer of prefill is
// attention_peer.py.
#include <fmt/format.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/api/dense_attention.h"
#include "kernels/api/elementwise.h"
#include "kernels/bench/suites.h"

namespace lexico::kernels::bench {
namespace {

constexpr int kHeads = 8;
constexpr int kKvHeads = 2;
constexpr int kHeadDim = 128;
constexpr int kPageTokens = 32;
const float kScale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));

std::vector<float> Random(int64_t n) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

void MeasureDecode(Bench& bench, int64_t n_seqs, int64_t n_tokens, DType type) {
  const PageLayout layout{
      .n_kv_heads = kKvHeads, .head_dim = kHeadDim, .page_tokens = kPageTokens, .dense_type = type};
  const int64_t n_pages = n_seqs * (n_tokens / kPageTokens);
  const int64_t n = n_pages * static_cast<int64_t>(layout.payload_bytes() / DTypeBytes(type));
  const std::vector<float> wide = Random(n);
  std::vector<uint8_t> memory(n * DTypeBytes(type));
  Convert(TensorView(wide.data(), {n}), MutableTensorView(memory.data(), type, {n}),
          bench.stream());
  const std::vector<float> q = Random(n_seqs * kHeads * kHeadDim);
  std::vector<const uint8_t*> pages;
  for (int64_t p = 0; p < n_pages; ++p) pages.push_back(memory.data() + p * layout.payload_bytes());
  std::vector<int64_t> begin;
  for (int64_t seq = 0; seq <= n_seqs; ++seq) begin.push_back(seq * (n_pages / n_seqs));
  std::vector<float> out(q.size());
  std::vector<float> max(n_seqs * kHeads);
  std::vector<float> sum(n_seqs * kHeads);
  DenseAttentionArgs args;
  args.q = TensorView(q.data(), {n_seqs, kHeads, kHeadDim});
  args.pages = pages.data();
  args.page_begin = begin.data();
  args.layout = layout;
  args.n_kv_heads = kKvHeads;
  args.kv_type = type;
  args.scale = kScale;
  args.out = MutableTensorView(out.data(), {n_seqs, kHeads, kHeadDim});
  args.max_score = MutableTensorView(max.data(), {n_seqs, kHeads});
  args.sum_exp = MutableTensorView(sum.data(), {n_seqs, kHeads});
  Case work;
  work.shape = fmt::format("seqs {} tokens {} {}", n_seqs, n_tokens, DTypeName(type));
  work.item_name = "tokens";
  work.items = static_cast<double>(n_seqs * n_tokens);
  work.bytes = static_cast<double>(memory.size());
  work.flops = 4.0 * static_cast<double>(n_seqs * n_tokens * kHeads * kHeadDim);
  bench.Measure("dense_attention", work, [&] { DenseAttention(args, bench.stream()); });
}

void MeasurePrefill(Bench& bench, int64_t n_queries, int64_t first_position, bool allow_bf16) {
  const int64_t n_keys = first_position + n_queries;
  const std::vector<float> q = Random(n_queries * kHeads * kHeadDim);
  const std::vector<float> k = Random(n_keys * kKvHeads * kHeadDim);
  const std::vector<float> v = Random(n_keys * kKvHeads * kHeadDim);
  std::vector<float> out(q.size());
  PrefillAttentionArgs args;
  args.q = TensorView(q.data(), {n_queries, kHeads, kHeadDim});
  args.k = TensorView(k.data(), {n_keys, kKvHeads, kHeadDim});
  args.v = TensorView(v.data(), {n_keys, kKvHeads, kHeadDim});
  args.first_position = first_position;
  args.scale = kScale;
  args.allow_bf16 = allow_bf16;
  args.out = MutableTensorView(out.data(), {n_queries, kHeads, kHeadDim});
  Case work;
  work.shape = fmt::format("queries {} after {} keys{}", n_queries, first_position,
                           allow_bf16 ? "" : ", in F32");
  work.item_name = "queries";
  work.items = static_cast<double>(n_queries);
  const double visible = static_cast<double>(n_queries) * first_position +
                         0.5 * static_cast<double>(n_queries) * (n_queries + 1);
  work.flops = 4.0 * kHeadDim * kHeads * visible;
  bench.Measure("prefill_attention", work, [&] { PrefillAttention(args, bench.stream()); });
}

}  // namespace

void DenseAttentionSuite(Bench& bench) {
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32})
    MeasureDecode(bench, 1, 65536, type);
  MeasureDecode(bench, 1, 128, DType::kBF16);
  MeasureDecode(bench, 8, 16384, DType::kBF16);
}

void PrefillAttentionSuite(Bench& bench) {
  for (const bool allow_bf16 : {true, false}) {
    MeasurePrefill(bench, 16, 0, allow_bf16);
    MeasurePrefill(bench, 256, 0, allow_bf16);
    MeasurePrefill(bench, 256, 3840, allow_bf16);
    MeasurePrefill(bench, 512, 7680, allow_bf16);
    MeasurePrefill(bench, 512, 15872, allow_bf16);
    MeasurePrefill(bench, 2048, 0, allow_bf16);
  }
}

}  // namespace lexico::kernels::bench

// Attention over dense keys and values on a GPU, on the attention of an 8B model: 32 query and 8 KV
// heads of 128. gpu_attention_peer.py times PyTorch's on the same shapes.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/api/dense_attention.h"
#include "kernels/api/elementwise.h"
#include "kernels/bench/bench_data.h"
#include "kernels/bench/suites.h"

namespace lexico::kernels::bench {
namespace {

constexpr int kHeads = 32;
constexpr int kKvHeads = 8;
constexpr int kHeadDim = 128;
constexpr int kPageTokens = 32;
// The layers of a case hold this much together: several times an L2 of 60 MB.
constexpr int64_t kLayersBytes = int64_t{256} << 20;
constexpr int64_t kDistinctBytes = int64_t{8} << 20;
const float kScale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));

std::vector<float> Random(int64_t n) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

// `bytes` of random numbers of a type, of which kDistinctBytes differ.
DeviceBuffer RandomOnDevice(int64_t bytes, DType type, const Stream& stream) {
  const int64_t n = std::min(bytes, kDistinctBytes) / static_cast<int64_t>(DTypeBytes(type));
  const std::vector<float> wide = Random(n);
  std::vector<uint8_t> narrow(n * DTypeBytes(type));
  Convert(TensorView(wide.data(), {n}), MutableTensorView(narrow.data(), type, {n}), Stream::Cpu());
  DeviceBuffer buffer = AllocateOnDevice(bytes, stream);
  for (int64_t at = 0; at < bytes; at += static_cast<int64_t>(narrow.size())) {
    buffer.CopyFrom(narrow.data(), std::min<int64_t>(narrow.size(), bytes - at), at);
  }
  return buffer;
}

// Queries and outputs of a decode step.
struct DecodeBuffers {
  DecodeBuffers(int64_t n_seqs, const Stream& stream)
      : q(RandomOnDevice(n_seqs * kHeads * kHeadDim * 4, DType::kF32, stream)),
        out(AllocateOnDevice(q.bytes(), stream)),
        max_score(AllocateOnDevice(n_seqs * kHeads * 4, stream)),
        sum_exp(AllocateOnDevice(n_seqs * kHeads * 4, stream)) {
    args.q = TensorView(q.as<float>(), {n_seqs, kHeads, kHeadDim});
    args.n_kv_heads = kKvHeads;
    args.scale = kScale;
    args.out = MutableTensorView(out.as<float>(), {n_seqs, kHeads, kHeadDim});
    args.max_score = MutableTensorView(max_score.as<float>(), {n_seqs, kHeads});
    args.sum_exp = MutableTensorView(sum_exp.as<float>(), {n_seqs, kHeads});
  }
  DeviceBuffer q, out, max_score, sum_exp;
  DenseAttentionArgs args;
};

Case DecodeCase(int64_t n_seqs, int64_t n_tokens, DType type, int64_t n_layers) {
  Case work;
  work.item_name = "tokens";
  work.items = static_cast<double>(n_layers * n_seqs * n_tokens);
  work.bytes = work.items * 2 * kKvHeads * kHeadDim * static_cast<double>(DTypeBytes(type));
  work.flops = work.items * 4 * kHeads * kHeadDim;
  return work;
}

void MeasurePages(Bench& bench, int64_t n_seqs, int64_t n_tokens, DType type) {
  const Stream& stream = bench.stream();
  DecodeBuffers buffers(n_seqs, stream);
  DenseAttentionArgs& args = buffers.args;
  args.kv_type = type;
  args.layout = {
      .n_kv_heads = kKvHeads, .head_dim = kHeadDim, .page_tokens = kPageTokens, .dense_type = type};
  const auto page_bytes = static_cast<int64_t>(args.layout.payload_bytes());
  const int64_t n_pages = n_seqs * (n_tokens / kPageTokens);
  const int64_t n_layers = std::max<int64_t>(1, kLayersBytes / (n_pages * page_bytes));
  const DeviceBuffer memory = RandomOnDevice(n_layers * n_pages * page_bytes, type, stream);
  std::vector<const uint8_t*> addresses;
  for (int64_t p = 0; p < n_layers * n_pages; ++p) {
    addresses.push_back(memory.as<uint8_t>() + p * page_bytes);
  }
  const DeviceBuffer table =
      UploadToDevice(addresses.data(), addresses.size() * sizeof(addresses[0]), stream);
  std::vector<int64_t> page_begin;
  for (int64_t i = 0; i <= n_seqs; ++i) page_begin.push_back(i * (n_pages / n_seqs));
  args.page_begin = page_begin.data();

  Case work = DecodeCase(n_seqs, n_tokens, type, n_layers);
  work.shape = fmt::format("{} x {} tokens in pages, {}, {} layers", n_seqs, n_tokens,
                           DTypeName(type), n_layers);
  Result& result = bench.Measure("dense_attention", work, [&] {
    for (int64_t layer = 0; layer < n_layers; ++layer) {
      args.pages = table.as<const uint8_t*>() + layer * n_pages;
      DenseAttention(args, stream);
    }
  });
  result.note = fmt::format("{:.1f} us a layer", result.median_us / static_cast<double>(n_layers));
}

void MeasureWindows(Bench& bench, int64_t n_seqs, int64_t n_tokens) {
  const Stream& stream = bench.stream();
  DecodeBuffers buffers(n_seqs, stream);
  DenseAttentionArgs& args = buffers.args;
  args.rows_max = n_tokens;
  const int64_t row_bytes = n_tokens * kKvHeads * kHeadDim * 2;
  const int64_t n_layers = std::clamp<int64_t>(kLayersBytes / (n_seqs * 2 * row_bytes), 1, 64);
  const DeviceBuffer memory =
      RandomOnDevice(n_layers * n_seqs * 2 * row_bytes, DType::kBF16, stream);
  std::vector<DenseRows> rows;
  for (int64_t i = 0; i < n_layers * n_seqs; ++i) {
    const uint8_t* k = memory.as<uint8_t>() + 2 * i * row_bytes;
    rows.push_back({k, k + row_bytes, n_tokens});
  }
  const DeviceBuffer table = UploadToDevice(rows.data(), rows.size() * sizeof(rows[0]), stream);
  Case work = DecodeCase(n_seqs, n_tokens, DType::kBF16, n_layers);
  work.shape = fmt::format("{} windows of {} tokens, {} layers", n_seqs, n_tokens, n_layers);
  Result& result = bench.Measure("dense_attention", work, [&] {
    for (int64_t layer = 0; layer < n_layers; ++layer) {
      args.rows = table.as<DenseRows>() + layer * n_seqs;
      DenseAttention(args, stream);
    }
  });
  result.note = fmt::format("{:.1f} us a layer", result.median_us / static_cast<double>(n_layers));
}

struct PrefillTypes {
  DType q;
  DType kv;
  bool allow_bf16;
};

void MeasurePrefill(Bench& bench, int64_t n_queries, int64_t n_keys, const PrefillTypes& types) {
  const Stream& stream = bench.stream();
  const auto q_bytes = static_cast<int64_t>(DTypeBytes(types.q)) * n_queries * kHeads * kHeadDim;
  const auto kv_bytes = static_cast<int64_t>(DTypeBytes(types.kv)) * n_keys * kKvHeads * kHeadDim;
  const DeviceBuffer q = RandomOnDevice(q_bytes, types.q, stream);
  const DeviceBuffer k = RandomOnDevice(kv_bytes, types.kv, stream);
  const DeviceBuffer v = RandomOnDevice(kv_bytes, types.kv, stream);
  const DeviceBuffer out = AllocateOnDevice(q_bytes, stream);
  PrefillAttentionArgs args;
  args.q = TensorView(q.as<void>(), types.q, {n_queries, kHeads, kHeadDim});
  args.k = TensorView(k.as<void>(), types.kv, {n_keys, kKvHeads, kHeadDim});
  args.v = TensorView(v.as<void>(), types.kv, {n_keys, kKvHeads, kHeadDim});
  args.first_position = n_keys - n_queries;
  args.scale = kScale;
  args.allow_bf16 = types.allow_bf16;
  args.out = MutableTensorView(out.as<void>(), types.q, {n_queries, kHeads, kHeadDim});
  Case work;
  work.shape =
      fmt::format("{} queries, {} keys, {} over {}{}", n_queries, n_keys, DTypeName(types.q),
                  DTypeName(types.kv), types.allow_bf16 ? "" : ", in F32");
  work.item_name = "queries";
  work.items = static_cast<double>(n_queries);
  const double visible = static_cast<double>(n_queries) * (n_keys - n_queries) +
                         0.5 * static_cast<double>(n_queries) * (n_queries + 1);
  work.flops = 4.0 * kHeadDim * kHeads * visible;
  Result& result =
      bench.Measure("prefill_attention", work, [&] { PrefillAttention(args, stream); });
  result.note = fmt::format("{:.0f} TFLOP/s", work.flops / result.median_us * 1e-6);
}

}  // namespace

void DenseAttentionGpuSuite(Bench& bench) {
  constexpr int64_t kShapes[][2] = {{1, 4096}, {1, 8192},  {1, 32768}, {1, 131072},
                                    {8, 4096}, {8, 32768}, {32, 8192}, {16, 131072}};
  for (const auto& [n_seqs, n_tokens] : kShapes)
    MeasurePages(bench, n_seqs, n_tokens, DType::kBF16);
  MeasurePages(bench, 1, 131072, DType::kF16);
  MeasurePages(bench, 1, 131072, DType::kF32);
  for (const int64_t n_seqs : {1, 8, 32, 128}) MeasureWindows(bench, n_seqs, 160);
}

void PrefillAttentionGpuSuite(Bench& bench) {
  constexpr PrefillTypes kBf16 = {DType::kBF16, DType::kBF16, true};
  for (const int64_t n_keys : {2048, 8192, 32768, 131072})
    MeasurePrefill(bench, 2048, n_keys, kBf16);
  MeasurePrefill(bench, 2048, 32768, {DType::kF16, DType::kF16, true});
  MeasurePrefill(bench, 2048, 32768, {DType::kF32, DType::kBF16, true});
  MeasurePrefill(bench, 2048, 32768, {DType::kF32, DType::kF32, true});
  MeasurePrefill(bench, 2048, 8192, {DType::kF32, DType::kF32, false});
}

}  // namespace lexico::kernels::bench

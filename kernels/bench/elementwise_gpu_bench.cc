// The elementwise ops and those of rows.h on a GPU, on the shapes of Llama-3.1-8B: 8192 rows, which
// no L2 holds, and the one row of a decode step, where the time is that of a launch.
#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/api/elementwise.h"
#include "kernels/api/rows.h"
#include "kernels/bench/gpu_arrays.h"
#include "kernels/bench/suites.h"

namespace lexico::kernels::bench {
namespace {

constexpr int64_t kHidden = 4096;
constexpr int64_t kFfn = 14336;
constexpr int kHeads = 32;
constexpr int kKvHeads = 8;
constexpr int kHeadDim = 128;
constexpr int64_t kRowDim = kKvHeads * kHeadDim;
constexpr int64_t kQkv = kHidden + 2 * kRowDim;

Case WorkOf(const std::string& shape, int64_t n_rows, double row_bytes) {
  Case work;
  work.shape = fmt::format("rows {} {}", n_rows, shape);
  work.item_name = "rows";
  work.items = static_cast<double>(n_rows);
  work.bytes = row_bytes * static_cast<double>(n_rows);
  return work;
}

void MeasureRows(Bench& bench, int64_t n) {
  const Stream& stream = bench.stream();
  const DeviceBuffer x = RandomOn(n * 2 * kFfn, DType::kF32, stream);
  const DeviceBuffer y = AllocateOn(n * kFfn * sizeof(float), stream);
  const DeviceBuffer weight = RandomOn(kHidden, DType::kF32, stream);
  bench.Measure("rms_norm", WorkOf("n 4096 to BF16", n, 6.0 * kHidden), [&] {
    RmsNorm(TensorView(x.as<float>(), {n, kHidden}), TensorView(weight.as<float>(), {kHidden}),
            1e-5f, MutableTensorView(y.as<void>(), DType::kBF16, {n, kHidden}), stream);
  });
  bench.Measure("swiglu", WorkOf("n 14336 to BF16", n, 10.0 * kFfn), [&] {
    SwiGlu(TensorView(x.as<float>(), {n, 2 * kFfn}),
           MutableTensorView(y.as<void>(), DType::kBF16, {n, kFfn}), stream);
  });
  bench.Measure("convert", WorkOf("n 4096 F32 to BF16", n, 6.0 * kHidden), [&] {
    Convert(TensorView(x.as<float>(), {n, kHidden}),
            MutableTensorView(y.as<void>(), DType::kBF16, {n, kHidden}), stream);
  });
  const DeviceBuffer flag = UploadTo(std::vector<int32_t>{0}, stream);
  bench.Measure("round_to_type", WorkOf("n 1024 BF16", n, 8.0 * kRowDim), [&] {
    RoundToType(MutableTensorView(y.as<float>(), {n, kRowDim}), DType::kBF16, flag.as<int32_t>(),
                stream);
  });

  std::vector<int32_t> numbers(n);
  std::iota(numbers.begin(), numbers.end(), 100'000);
  const DeviceBuffer positions = UploadTo(numbers, stream);
  std::vector<double> frequencies(kHeadDim / 2);
  for (int i = 0; i < kHeadDim / 2; ++i) frequencies[i] = std::pow(500'000.0, -2.0 * i / kHeadDim);
  const DeviceBuffer inv_frequency = UploadTo(frequencies, stream);
  float* k = y.as<float>() + n * kHidden;
  const RopeArgs args{.qkv = TensorView(x.as<float>(), {n, kQkv}),
                      .n_heads = kHeads,
                      .n_kv_heads = kKvHeads,
                      .head_dim = kHeadDim,
                      .positions = positions.as<int32_t>(),
                      .inv_frequency = inv_frequency.as<double>(),
                      .q = MutableTensorView(y.as<float>(), {n, kHeads, kHeadDim}),
                      .k = MutableTensorView(k, {n, kKvHeads, kHeadDim}),
                      .v = MutableTensorView(k + n * kRowDim, {n, kKvHeads, kHeadDim})};
  bench.Measure("rotate_and_split", WorkOf("heads 32 + 2 * 8 head_dim 128", n, 8.0 * kQkv),
                [&] { RotateAndSplit(args, stream); });
}

// `n` pages of 32 tokens.
void MeasurePages(Bench& bench, int64_t n) {
  const Stream& stream = bench.stream();
  constexpr int kSparsity = 16;
  PageLayout codes{.n_kv_heads = kKvHeads,
                   .head_dim = kHeadDim,
                   .page_tokens = 32,
                   .sparsity_k = kSparsity,
                   .sparsity_v = kSparsity};
  PageLayout dense = codes;
  dense.sparsity_k = dense.sparsity_v = 0;
  const DeviceBuffer memory = AllocateOn(2 * n * dense.payload_bytes(), stream);
  std::vector<uint8_t*> addresses;
  for (int64_t i = 0; i < 2 * n; ++i)
    addresses.push_back(memory.as<uint8_t>() + i * dense.payload_bytes());
  const DeviceBuffer table = UploadTo(addresses, stream);
  const int64_t n_vectors = n * codes.page_tokens * kKvHeads;
  const DeviceBuffer rows = RandomOn(n_vectors * kHeadDim, DType::kF32, stream);
  const DeviceBuffer errors = AllocateOn(n * sizeof(float), stream);
  const std::string shape = fmt::format("as {} pages", n);
  bench.Measure("pack_codes", WorkOf(shape + " sparsity 16", n_vectors, 6.0 * kSparsity + 4), [&] {
    PackCodes({.layout = codes,
               .atoms = TensorView(rows.as<uint16_t>(), {n_vectors, kSparsity}),
               .coefs = TensorView(rows.as<uint8_t>(), {n_vectors, kSparsity}),
               .rel_error = TensorView(rows.as<float>(), {n_vectors}),
               .pages = table.as<uint8_t*>(),
               .page_error = errors.as<float>()},
              stream);
  });
  bench.Measure("pack_dense", WorkOf(shape + " BF16", n_vectors, 6.0 * kHeadDim), [&] {
    PackDense({.layout = dense,
               .rows = TensorView(rows.as<float>(), {n * 32, kKvHeads, kHeadDim}),
               .pages = table.as<uint8_t*>()},
              stream);
  });
  bench.Measure("unpack_dense", WorkOf(shape + " BF16", n_vectors, 6.0 * kHeadDim), [&] {
    UnpackDense({.layout = dense,
                 .pages = table.as<const uint8_t*>(),
                 .rows = MutableTensorView(rows.as<float>(), {n * 32, kKvHeads, kHeadDim})},
                stream);
  });
  const auto page_bytes = static_cast<double>(dense.payload_bytes());
  bench.Measure("copy_blocks", WorkOf("of a dense page", n, 2 * page_bytes), [&] {
    CopyBlocks(table.as<const void*>(), table.as<void*>() + n, n, dense.payload_bytes(), stream);
  });
}

}  // namespace

void ElementwiseGpuSuite(Bench& bench) {
  for (const int64_t n_rows : {1, 32, 8192}) MeasureRows(bench, n_rows);
  for (const int64_t n_pages : {1, 1024}) MeasurePages(bench, n_pages);
}

}  // namespace lexico::kernels::bench

// MatMul on a GPU, on the shapes of a layer of Llama-3.1-8B, BF16: x as RmsNorm and SwiGlu leave it
// for the product, y F32. Few rows are bound by the bytes of the weights, many by the tensor cores,
// whose ceiling is the first row: the largest product, by the same library.
//
// A case runs over several matrices that L2 does not hold together.
#include <fmt/format.h>

#include <memory>
#include <vector>

#include "kernels/api/matmul.h"
#include "kernels/bench/gpu_arrays.h"
#include "kernels/bench/suites.h"
#include "proto/base/check.h"

namespace lexico::kernels::bench {
namespace {

constexpr int64_t kLayersBytes = int64_t{256} << 20;

using Ring = std::vector<std::shared_ptr<const PreparedMatrix>>;

Ring PrepareRing(int64_t n_in, int64_t n_out, const Stream& stream) {
  const std::vector<uint16_t> weights = RandomBf16(n_in * n_out);
  Ring ring;
  for (int64_t bytes = 0; bytes < kLayersBytes; bytes += 2 * n_in * n_out) {
    auto made = PrepareMatrix({TensorView(weights.data(), DType::kBF16, {n_out, n_in})}, stream);
    LEXICO_CHECK(made.ok());
    ring.push_back(*made);
  }
  return ring;
}

void Measure(Bench& bench, const Ring& ring, int64_t n_rows) {
  const Stream& stream = bench.stream();
  const int64_t n_in = ring[0]->n_in();
  const int64_t n_out = ring[0]->n_out();
  const DeviceBuffer x = RandomOn(n_rows * n_in, DType::kBF16, stream);
  const DeviceBuffer y = AllocateOn(n_rows * n_out * sizeof(float), stream);
  const auto n_layers = static_cast<double>(ring.size());
  Case work;
  work.shape = fmt::format("rows {} in {} out {}, {} layers", n_rows, n_in, n_out, ring.size());
  work.item_name = "rows";
  work.items = n_layers * static_cast<double>(n_rows);
  work.bytes = n_layers * static_cast<double>(2 * n_in * n_out + n_rows * (2 * n_in + 4 * n_out));
  Result& result = bench.Measure("matmul", work, [&] {
    for (const auto& matrix : ring) {
      MatMul(TensorView(x.as<void>(), DType::kBF16, {n_rows, n_in}), *matrix,
             MutableTensorView(y.as<float>(), {n_rows, n_out}), false, stream);
    }
  });
  const double us = result.median_us / n_layers;
  result.note = fmt::format("{:.1f} us a product, {:.0f} TFLOP/s", us,
                            2e-6 * static_cast<double>(n_rows * n_in * n_out) / us);
}

}  // namespace

void MatMulGpuSuite(Bench& bench) {
  Measure(bench, PrepareRing(8192, 8192, bench.stream()), 8192);
  constexpr int64_t kShapes[][2] = {{4096, 6144}, {4096, 4096}, {4096, 28672}, {14336, 4096}};
  for (const auto& [n_in, n_out] : kShapes) {
    const Ring ring = PrepareRing(n_in, n_out, bench.stream());
    for (const int64_t n_rows : {1, 8, 32, 2048}) Measure(bench, ring, n_rows);
  }
}

}  // namespace lexico::kernels::bench

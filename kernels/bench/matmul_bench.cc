// MatMul on the shapes of the embedded model, and oneDNN's F32 product of the same shape as peer.
//
// Weights come from a ring of copies larger than the caches: a decode step reads every layer's
// once.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "kernels/api/elementwise.h"
#include "kernels/api/matmul.h"
#include "kernels/bench/suites.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace lexico::kernels::bench {
namespace {

constexpr size_t kRingBytes = size_t{64} << 20;

std::vector<float> Random(int64_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

Case WorkOf(int64_t n_rows, int64_t n_in, int64_t n_out, double weight_bytes) {
  Case work;
  work.shape = fmt::format("rows {} in {} out {}", n_rows, n_in, n_out);
  work.item_name = "rows";
  work.items = static_cast<double>(n_rows);
  work.bytes = weight_bytes + 4.0 * static_cast<double>(n_rows * (n_in + n_out));
  work.flops = 2.0 * static_cast<double>(n_rows) * n_in * n_out;
  return work;
}

void MeasureOurs(Bench& bench, int64_t n_rows, int64_t n_in, int64_t n_out) {
  const std::vector<float> wide = Random(n_out * n_in);
  std::vector<uint16_t> narrow(wide.size());
  Convert(TensorView(wide.data(), {n_out, n_in}),
          MutableTensorView(narrow.data(), DType::kBF16, {n_out, n_in}), bench.stream());
  std::vector<std::shared_ptr<const PreparedMatrix>> ring;
  for (size_t bytes = 0; bytes < kRingBytes; bytes += ring.back()->bytes())
    ring.push_back(
        *PrepareMatrix({TensorView(narrow.data(), DType::kBF16, {n_out, n_in})}, bench.stream()));
  const std::vector<float> x = Random(n_rows * n_in);
  std::vector<float> y(n_rows * n_out);
  size_t turn = 0;
  bench
      .Measure("matmul", WorkOf(n_rows, n_in, n_out, 2.0 * static_cast<double>(n_in * n_out)),
               [&] {
                 MatMul(TensorView(x.data(), {n_rows, n_in}), *ring[turn++ % ring.size()],
                        MutableTensorView(y.data(), {n_rows, n_out}), false, bench.stream());
               })
      .note = fmt::format("BF16 weights, {}", MatMulUnit(bench.stream()));
}

void MeasurePeer(Bench& bench, int64_t n_rows, int64_t n_in, int64_t n_out) {
  using dnnl::memory;
  const int threads_before = omp_get_max_threads();
  omp_set_num_threads(bench.stream().threads());
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto f32 = memory::data_type::f32;
  const memory::desc x_desc({n_rows, n_in}, f32, memory::format_tag::ab);
  const memory::desc y_desc({n_rows, n_out}, f32, memory::format_tag::ab);
  const memory::desc any({n_in, n_out}, f32, memory::format_tag::any);
  const dnnl::matmul::primitive_desc described(dnnl::matmul::desc(x_desc, any, y_desc), engine);
  const dnnl::matmul product(described);
  std::vector<float> w = Random(n_out * n_in);
  memory plain({{n_in, n_out}, f32, memory::format_tag::ba}, engine, w.data());
  std::vector<memory> ring;
  for (size_t bytes = 0; bytes < kRingBytes; bytes += described.weights_desc().get_size()) {
    ring.emplace_back(described.weights_desc(), engine);
    dnnl::reorder(plain, ring.back()).execute(stream, plain, ring.back());
  }
  std::vector<float> x = Random(n_rows * n_in);
  std::vector<float> y(n_rows * n_out);
  const memory from(x_desc, engine, x.data());
  const memory to(y_desc, engine, y.data());
  size_t turn = 0;
  bench
      .Measure("matmul peer", WorkOf(n_rows, n_in, n_out, 4.0 * static_cast<double>(n_in * n_out)),
               [&] {
                 product.execute(stream, {{DNNL_ARG_SRC, from},
                                          {DNNL_ARG_WEIGHTS, ring[turn++ % ring.size()]},
                                          {DNNL_ARG_DST, to}});
                 stream.wait();
               })
      .note = "oneDNN F32, weights packed once";
  omp_set_num_threads(threads_before);
}

}  // namespace

void MatMulSuite(Bench& bench) {
  constexpr int64_t kShapes[][2] = {{384, 1536}, {1024, 384}, {384, 2048}, {384, 8192}};
  for (const auto& [n_in, n_out] : kShapes) {
    for (const int64_t n_rows : {1, 8, 64, 512}) {
      MeasureOurs(bench, n_rows, n_in, n_out);
      MeasurePeer(bench, n_rows, n_in, n_out);
    }
  }
}

}  // namespace lexico::kernels::bench

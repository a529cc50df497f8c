// The elementwise ops on a prefill chunk of the embedded model.
#include <fmt/format.h>

#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/api/elementwise.h"
#include "kernels/bench/suites.h"

namespace lexico::kernels::bench {
namespace {

constexpr int64_t kRows = 512;

std::vector<float> Random(int64_t n) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

Case WorkOf(const std::string& shape, double bytes) {
  Case work;
  work.shape = shape;
  work.item_name = "rows";
  work.items = kRows;
  work.bytes = bytes;
  return work;
}

}  // namespace

void ElementwiseSuite(Bench& bench) {
  const Stream& stream = bench.stream();
  {
    const std::vector<float> x = Random(kRows * 384);
    const std::vector<float> weight = Random(384);
    std::vector<float> y(x.size());
    bench.Measure("rms_norm", WorkOf("rows 512 n 384", 8.0 * kRows * 384), [&] {
      RmsNorm(TensorView(x.data(), {kRows, 384}), TensorView(weight.data(), {384}), 1e-5f,
              MutableTensorView(y.data(), {kRows, 384}), stream);
    });
  }
  {
    const std::vector<float> x = Random(kRows * 1536);
    std::vector<float> y(x.size());
    std::vector<int32_t> positions(kRows);
    std::iota(positions.begin(), positions.end(), 15000);
    std::vector<double> inv_frequency(64);
    for (int i = 0; i < 64; ++i) inv_frequency[i] = std::pow(10000.0, -i / 64.0);
    float* k = y.data() + kRows * 8 * 128;
    float* v = k + kRows * 2 * 128;
    const RopeArgs args{.qkv = TensorView(x.data(), {kRows, 1536}),
                        .n_heads = 8,
                        .n_kv_heads = 2,
                        .head_dim = 128,
                        .positions = positions.data(),
                        .inv_frequency = inv_frequency.data(),
                        .q = MutableTensorView(y.data(), {kRows, 8, 128}),
                        .k = MutableTensorView(k, {kRows, 2, 128}),
                        .v = MutableTensorView(v, {kRows, 2, 128})};
    bench.Measure("rotate_and_split",
                  WorkOf("rows 512 heads 8 + 2 * 2 head_dim 128", 8.0 * kRows * 1536),
                  [&] { RotateAndSplit(args, stream); });
  }
  {
    const std::vector<float> x = Random(kRows * 2048);
    std::vector<float> y(kRows * 1024);
    bench.Measure("swiglu", WorkOf("rows 512 n 1024", 4.0 * kRows * 3072), [&] {
      SwiGlu(TensorView(x.data(), {kRows, 2048}), MutableTensorView(y.data(), {kRows, 1024}),
             stream);
    });
  }
}

}  // namespace lexico::kernels::bench

#include "kernels/cuda/ceilings.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "kernels/bench/bench.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/bench/ceilings.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sums n floats; 8 accumulators hide the latency of the additions.
float SumFloats(const float* data, size_t n) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
  for (size_t i = 0; i + 8 * lanes <= n; i += 8 * lanes) {
    s0 = hn::Add(s0, hn::LoadU(d, data + i));
    s1 = hn::Add(s1, hn::LoadU(d, data + i + lanes));
    s2 = hn::Add(s2, hn::LoadU(d, data + i + 2 * lanes));
    s3 = hn::Add(s3, hn::LoadU(d, data + i + 3 * lanes));
    s4 = hn::Add(s4, hn::LoadU(d, data + i + 4 * lanes));
    s5 = hn::Add(s5, hn::LoadU(d, data + i + 5 * lanes));
    s6 = hn::Add(s6, hn::LoadU(d, data + i + 6 * lanes));
    s7 = hn::Add(s7, hn::LoadU(d, data + i + 7 * lanes));
  }
  const auto sum =
      hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), hn::Add(hn::Add(s4, s5), hn::Add(s6, s7)));
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// n rounds of 10 independent multiply-adds; returns the multiply-adds done (lanes * 10 * n) and
// stores the values so that the loop stays.
size_t MultiplyAdds(size_t n, float* sink) {
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, 0.999f);
  const auto y = hn::Set(d, 0.001f);
  // Ten chains that begin apart: the compiler would compute equal ones once.
  const auto start = [&](int i) HWY_ATTR { return hn::Set(d, 0.125f * static_cast<float>(i)); };
  auto a0 = start(0), a1 = start(1), a2 = start(2), a3 = start(3), a4 = start(4);
  auto a5 = start(5), a6 = start(6), a7 = start(7), a8 = start(8), a9 = start(9);
  for (size_t i = 0; i < n; ++i) {
    a0 = hn::MulAdd(a0, x, y);
    a1 = hn::MulAdd(a1, x, y);
    a2 = hn::MulAdd(a2, x, y);
    a3 = hn::MulAdd(a3, x, y);
    a4 = hn::MulAdd(a4, x, y);
    a5 = hn::MulAdd(a5, x, y);
    a6 = hn::MulAdd(a6, x, y);
    a7 = hn::MulAdd(a7, x, y);
    a8 = hn::MulAdd(a8, x, y);
    a9 = hn::MulAdd(a9, x, y);
  }
  const auto sum = hn::Add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)),
                           hn::Add(hn::Add(hn::Add(a4, a5), hn::Add(a6, a7)), hn::Add(a8, a9)));
  *sink = hn::GetLane(hn::SumOfLanes(d, sum));
  return hn::Lanes(d) * 10 * n;
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace lexico::kernels::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::bench {

HWY_EXPORT(SumFloats);
HWY_EXPORT(MultiplyAdds);
HWY_EXPORT(TargetName);

namespace {

constexpr size_t kReadFloats = size_t{64} << 20;  // 256 MiB: eight times a 32 MiB L3
constexpr size_t kRounds = 20'000'000;

// Best of 5: a ceiling is what the machine can do, not what it does on average.
template <typename Body>
double BestSeconds(const Body& body) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

}  // namespace

Ceilings MeasureCeilings(const Stream& stream) {
  if (stream.kind() == DeviceKind::kCuda) {
    const cuda::GpuCeilings gpu = cuda::MeasureCeilings(stream);
    return {gpu.copy_gb_per_s, gpu.f32_gflop_per_s, stream.device()->name()};
  }
  const int threads = stream.threads();
  std::vector<float> data(kReadFloats, 1.0f);
  std::vector<float> sinks(threads);
  Ceilings ceilings;
  ceilings.vector_unit = HWY_DYNAMIC_DISPATCH(TargetName)();

  const size_t share = kReadFloats / threads;
  const double read_seconds = BestSeconds([&] {
#pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; ++t) {
      sinks[t] = HWY_DYNAMIC_DISPATCH(SumFloats)(data.data() + t * share, share);
    }
  });
  ceilings.read_gb_per_s = share * threads * sizeof(float) / read_seconds * 1e-9;

  std::vector<size_t> done(threads);
  const double fma_seconds = BestSeconds([&] {
#pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; ++t) {
      done[t] = HWY_DYNAMIC_DISPATCH(MultiplyAdds)(kRounds, &sinks[t]);
    }
  });
  double multiply_adds = 0;
  for (const size_t n : done) multiply_adds += static_cast<double>(n);
  ceilings.f32_gflop_per_s = 2 * multiply_adds / fma_seconds * 1e-9;
  return ceilings;
}

}  // namespace lexico::kernels::bench
#endif  // HWY_ONCE

#include "worker/engine/forward_context.h"

#include <cmath>

#include "kernels/api/elementwise.h"

namespace lexico::worker {

float ForwardContext::attention_scale() const {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

bool RoundToCacheType(kernels::DType type, int64_t n, float* values, const kernels::Stream& stream,
                      std::vector<uint16_t>& scratch) {
  if (type != kernels::DType::kF32) {
    scratch.resize(n);
    kernels::Convert({values, {n}}, {scratch.data(), type, {n}}, stream);
    kernels::Convert({scratch.data(), type, {n}}, {values, {n}}, stream);
  }
  // x - x is 0 for finite x only; the sum of many is NaN if any is. Four sums hide the latency.
  float sums[4] = {};
  for (int64_t i = 0; i < n; ++i) sums[i % 4] += values[i] - values[i];
  return sums[0] + sums[1] + sums[2] + sums[3] == 0.0f;
}

}  // namespace lexico::worker

// What the lanes of a warp do together. Results are the same in all lanes, and the same on every
// run: partners are added in a fixed order.
#pragma once

#include <cstdint>

namespace lexico::kernels::cuda {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ inline float WarpMax(float value) {
#pragma unroll
  for (int i = kWarp / 2; i > 0; i /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, i));
  }
  return value;
}

// T is float or double.
template <typename T>
__device__ T WarpSum(T value) {
#pragma unroll
  for (int i = kWarp / 2; i > 0; i /= 2) value += __shfl_xor_sync(kAllLanes, value, i);
  return value;
}

// sum += c * row
__device__ inline void AddScaled(float c, const float4& row, float4& sum) {
  sum.x = fmaf(c, row.x, sum.x);
  sum.y = fmaf(c, row.y, sum.y);
  sum.z = fmaf(c, row.z, sum.z);
  sum.w = fmaf(c, row.w, sum.w);
}

}  // namespace lexico::kernels::cuda

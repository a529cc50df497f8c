// The rotation of residuals (kernels/api/residual.h) by one warp: lane l holds numbers l, l + 32,
// l + 64, ... of a vector.
#pragma once

#include <cmath>

#include "kernels/api/residual.h"
#include "kernels/cuda/warp.cuh"

namespace lexico::kernels::cuda {

// Parts of a lane for the largest head_dim.
inline constexpr int kRotationPartsMax = 8;

__device__ inline int NumberOfLane(int part) {
  return part * kWarp + static_cast<int>(threadIdx.x % kWarp);
}

// x = H x / sqrt(head_dim), all lanes together; T is float or double. The same additions, in the
// same order, as the definition's (kernels/cpu/vector_code_definition.cc).
template <typename T, int kParts>
__device__ void WarpHadamard(T (&x)[kParts], int head_dim) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  for (int half = 1; half < kWarp && half < head_dim; half *= 2) {
    const bool high = (lane & half) != 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const T other = __shfl_xor_sync(kAllLanes, x[part], half);
      x[part] = high ? other - x[part] : x[part] + other;
    }
  }
#pragma unroll
  for (int half = 1; half < kParts; half *= 2) {
    if (half * kWarp >= head_dim) break;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if ((part & half) != 0) continue;
      const T low = x[part];
      x[part] = low + x[part + half];
      x[part + half] = low - x[part + half];
    }
  }
  const T scale = 1 / sqrt(static_cast<T>(head_dim));
#pragma unroll
  for (int part = 0; part < kParts; ++part) x[part] *= scale;
}

// Bit l: number part * 32 + l changes its sign.
constexpr uint32_t MinusSigns(int part) {
  uint32_t bits = 0;
  for (int l = 0; l < kWarp; ++l) bits |= ResidualSign(part * kWarp + l) < 0 ? 1u << l : 0u;
  return bits;
}
template <int kPart>
inline constexpr uint32_t kMinusSigns = MinusSigns(kPart);

__device__ inline uint32_t MinusSignsOf(int part) {
  switch (part) {  // unrolled where it is called
    case 0:
      return kMinusSigns<0>;
    case 1:
      return kMinusSigns<1>;
    case 2:
      return kMinusSigns<2>;
    case 3:
      return kMinusSigns<3>;
    case 4:
      return kMinusSigns<4>;
    case 5:
      return kMinusSigns<5>;
    case 6:
      return kMinusSigns<6>;
    default:
      return kMinusSigns<7>;
  }
}

template <typename T, int kParts>
__device__ void WarpSigns(T (&x)[kParts]) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if ((MinusSignsOf(part) >> lane & 1) != 0) x[part] = -x[part];
  }
}

// z = R r, and back. Numbers past head_dim are 0 before; after they are not to be used.
template <typename T, int kParts>
__device__ void WarpRotate(T (&x)[kParts], int head_dim) {
  WarpSigns(x);
  WarpHadamard(x, head_dim);
}
template <typename T, int kParts>
__device__ void WarpRotateBack(T (&x)[kParts], int head_dim) {
  WarpHadamard(x, head_dim);
  WarpSigns(x);
}

}  // namespace lexico::kernels::cuda

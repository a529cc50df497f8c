// Four consecutive numbers of a row: what a thread of the elementwise kernels reads and writes at
// once. Rows of a width divisible by 4 at an aligned address take one access of 8 or 16 bytes,
// others single ones; the arithmetic is the same, and so are the bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/api/tensor.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {

inline constexpr int kGroup = 4;

__device__ inline float Widen(float x) { return x; }
__device__ inline float Widen(__half x) { return __half2float(x); }
__device__ inline float Widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// To nearest even.
template <typename T>
__device__ T Narrow(float x);
template <>
__device__ inline float Narrow<float>(float x) {
  return x;
}
template <>
__device__ inline __half Narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 Narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

template <typename T>
struct alignas(kGroup * sizeof(T)) Group {
  T values[kGroup];
};

// What lies behind the `n` that the row still has is read as 0.
template <typename T>
__device__ float4 LoadGroup(const T* from, int64_t n, bool whole) {
  if (whole) {
    const Group<T> group = *reinterpret_cast<const Group<T>*>(from);
    return {Widen(group.values[0]), Widen(group.values[1]), Widen(group.values[2]),
            Widen(group.values[3])};
  }
  return {n > 0 ? Widen(from[0]) : 0.0f, n > 1 ? Widen(from[1]) : 0.0f,
          n > 2 ? Widen(from[2]) : 0.0f, n > 3 ? Widen(from[3]) : 0.0f};
}

template <typename T>
__device__ void StoreGroup(const float4& x, T* to, int64_t n, bool whole) {
  const Group<T> group = {Narrow<T>(x.x), Narrow<T>(x.y), Narrow<T>(x.z), Narrow<T>(x.w)};
  if (whole) {
    *reinterpret_cast<Group<T>*>(to) = group;
    return;
  }
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    if (i < n) to[i] = group.values[i];
  }
}

// Rows of n numbers at `data` can be taken in whole groups.
inline bool WholeGroups(const void* data, DType type, int64_t n) {
  return n % kGroup == 0 && reinterpret_cast<uintptr_t>(data) % (kGroup * DTypeBytes(type)) == 0;
}

// Calls body with a value of the type. REQUIRES: F32, F16 or BF16.
template <typename Body>
void WithType(DType type, const Body& body) {
  switch (type) {
    case DType::kF32:
      return body(float{});
    case DType::kF16:
      return body(__half{});
    case DType::kBF16:
      return body(__nv_bfloat16{});
    default:
      LEXICO_UNREACHABLE();
  }
}

}  // namespace lexico::kernels::cuda

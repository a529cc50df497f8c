// Sums in fixed point, 64 bits in units of 2^-24: integers add to the same bits in any order, so
// threads may add with atomics and the sum is still deterministic. Of magnitudes below 2^39.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define LEXICO_FIXED __host__ __device__
#else
#define LEXICO_FIXED
#endif

namespace lexico::kernels::cuda {

inline constexpr float kFixedOne = 16777216.0f;

// To nearest, ties to even. Negative numbers are their two's complement, which is what
// atomicAdd takes.
LEXICO_FIXED inline unsigned long long ToFixed(float value) {
  return static_cast<unsigned long long>(static_cast<long long>(llrintf(value * kFixedOne)));
}

LEXICO_FIXED inline double FromFixed(unsigned long long sum) {
  return static_cast<double>(static_cast<long long>(sum)) / static_cast<double>(kFixedOne);
}

}  // namespace lexico::kernels::cuda

#undef LEXICO_FIXED

// A vector in the registers of half a warp. Sums are the same in all lanes of the half, and
// partners are added in a fixed order.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/omp_exact.cuh"
#include "kernels/cuda/omp_state.h"
#include "kernels/cuda/warp.cuh"

namespace lexico::kernels::cuda {

inline constexpr int kHalfWarp = kWarp / 2;

// Of this lane's half.
__device__ inline uint32_t HalfWarpBits(uint32_t ballot) {
  return ballot >> (threadIdx.x % kWarp / kHalfWarp * kHalfWarp) & 0xffff;
}
__device__ inline bool HalfWarpAny(bool value) {
  return HalfWarpBits(__ballot_sync(kAllLanes, value)) != 0;
}
__device__ inline bool HalfWarpAll(bool value) { return !HalfWarpAny(!value); }

__device__ inline float HalfWarpSum(float value) {
#pragma unroll
  for (int i = kHalfWarp / 2; i > 0; i /= 2) value += __shfl_xor_sync(kAllLanes, value, i);
  return value;
}

// Two sums, in all lanes, for the shuffles of little more than one: a lane gives away what it does
// not keep.
__device__ inline float2 HalfWarpSumOfTwo(float a, float b) {
  const bool upper = (threadIdx.x & 8) != 0;
  float sum = (upper ? b : a) + __shfl_xor_sync(kAllLanes, upper ? a : b, 8);
#pragma unroll
  for (int i = 4; i > 0; i /= 2) sum += __shfl_xor_sync(kAllLanes, sum, i);
  const float other = __shfl_xor_sync(kAllLanes, sum, 8);
  return upper ? make_float2(other, sum) : make_float2(sum, other);
}

// Likewise four. Lane l of the half has the sum of values[l / 4] in the end.
__device__ inline float HalfWarpSumOfFour(const float (&values)[4]) {
  const bool upper = (threadIdx.x & 8) != 0;
  float two[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    two[i] = (upper ? values[2 + i] : values[i]) +
             __shfl_xor_sync(kAllLanes, upper ? values[i] : values[2 + i], 8);
  }
  const bool odd = (threadIdx.x & 4) != 0;
  float sum = (odd ? two[1] : two[0]) + __shfl_xor_sync(kAllLanes, odd ? two[0] : two[1], 4);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  return sum + __shfl_xor_sync(kAllLanes, sum, 1);
}

// A lane's components: 8 of every 128. Rows in memory are 128 * kParts numbers, 0 past head_dim.
template <int kParts>
struct HalfWarpPart {
  float v[8 * kParts];

  __device__ static int First(int part) { return part * 128 + threadIdx.x % kHalfWarp * 8; }
  __device__ static HalfWarpPart Load(const float* row) {
    HalfWarpPart part;
#pragma unroll
    for (int i = 0; i < 2 * kParts; ++i) {
      const float4 four = *reinterpret_cast<const float4*>(row + First(i / 2) + i % 2 * 4);
      part.v[4 * i] = four.x, part.v[4 * i + 1] = four.y;
      part.v[4 * i + 2] = four.z, part.v[4 * i + 3] = four.w;
    }
    return part;
  }
  __device__ void Store(float* row) const {
#pragma unroll
    for (int i = 0; i < 2 * kParts; ++i) {
      *reinterpret_cast<float4*>(row + First(i / 2) + i % 2 * 4) =
          make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
    }
  }
  // factor * v in F16, to a row of `dim` numbers, a multiple of 64.
  __device__ void StoreHalves(float factor, __half* row, int dim) const {
#pragma unroll
    for (int r = 0; r < kParts; ++r) {
      if (First(r) >= dim) continue;
      __half2 pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        pairs[i] = __floats2half2_rn(v[8 * r + 2 * i] * factor, v[8 * r + 2 * i + 1] * factor);
      }
      *reinterpret_cast<uint4*>(row + First(r)) = *reinterpret_cast<const uint4*>(pairs);
    }
  }
  // The lane's share.
  __device__ float Dot(const HalfWarpPart& other) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8 * kParts; ++i) sum = fmaf(v[i], other.v[i], sum);
    return sum;
  }
  __device__ void Add(float factor, const HalfWarpPart& other) {
#pragma unroll
    for (int i = 0; i < 8 * kParts; ++i) v[i] = fmaf(factor, other.v[i], v[i]);
  }
};

// A row of the dictionary as its file has it: F16 where the file is, in half the registers.
template <int kParts, bool kPacked>
struct AtomRow {
  uint4 words[kParts];

  __device__ static AtomRow Load(const OmpAtoms& atoms, uint32_t atom) {
    AtomRow row;
#pragma unroll
    for (int r = 0; r < kParts; ++r) {
      row.words[r] = *reinterpret_cast<const uint4*>(atoms.packed + atom * (128 * kParts) +
                                                     HalfWarpPart<kParts>::First(r));
    }
    return row;
  }
  __device__ HalfWarpPart<kParts> Unpack() const {
    HalfWarpPart<kParts> part;
#pragma unroll
    for (int r = 0; r < kParts; ++r) {
      const auto* pairs = reinterpret_cast<const __half2*>(&words[r]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 two = __half22float2(pairs[i]);
        part.v[8 * r + 2 * i] = two.x, part.v[8 * r + 2 * i + 1] = two.y;
      }
    }
    return part;
  }
};
template <int kParts>
struct AtomRow<kParts, false> {
  HalfWarpPart<kParts> part;

  __device__ static AtomRow Load(const OmpAtoms& atoms, uint32_t atom) {
    AtomRow row;
#pragma unroll
    for (int i = 0; i < 2 * kParts; ++i) {
      const int first = HalfWarpPart<kParts>::First(i / 2) + i % 2 * 4;
      float4 four = make_float4(0, 0, 0, 0);
      if (first < atoms.row_stride) {
        four = *reinterpret_cast<const float4*>(atoms.rows + atom * atoms.row_stride + first);
      }
      row.part.v[4 * i] = four.x, row.part.v[4 * i + 1] = four.y;
      row.part.v[4 * i + 2] = four.z, row.part.v[4 * i + 3] = four.w;
    }
    return row;
  }
  __device__ const HalfWarpPart<kParts>& Unpack() const { return part; }
};

// The candidates of the half's vector, two a lane.
struct HalfWarpCandidates {
  float score[2];
  int pair[2];

  __device__ HalfWarpCandidates(const OmpState& state, int vector) {
    static_assert(kSearchRanges * kSearchClasses == kWarp);
    const int4 two = *reinterpret_cast<const int4*>(state.candidates + vector * kWarp +
                                                    threadIdx.x % kHalfWarp * 2);
    score[0] = __int_as_float(two.x), pair[0] = two.y;
    score[1] = __int_as_float(two.z), pair[1] = two.w;
  }
  // Those within `error` of the largest: bit l of lane l's first, bit 16 + l of its second.
  __device__ uint32_t Near(float error) const {
    float largest = fmaxf(score[0], score[1]);
#pragma unroll
    for (int i = kHalfWarp / 2; i > 0; i /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, i));
    }
    return HalfWarpBits(__ballot_sync(kAllLanes, score[0] >= largest - error)) |
           HalfWarpBits(__ballot_sync(kAllLanes, score[1] >= largest - error)) << 16;
  }
  // The pair of the lowest bit.
  __device__ int Pair(uint32_t bits) const {
    const int bit = bits == 0 ? 0 : __ffs(bits) - 1;
    const int lane = threadIdx.x % kWarp / kHalfWarp * kHalfWarp + bit % kHalfWarp;
    const int a = __shfl_sync(kAllLanes, pair[0], lane);
    const int b = __shfl_sync(kAllLanes, pair[1], lane);
    return bit < kHalfWarp ? a : b;
  }
};

}  // namespace lexico::kernels::cuda

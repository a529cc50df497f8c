// A vector in the registers of a warp, and the best of what its lanes have seen.
#pragma once

#include "kernels/cuda/warp.cuh"

namespace lexico::kernels::cuda {

// A lane's components of a vector: 4 of every 128.
template <int kParts>
struct LanePart {
  float v[4 * kParts];

  // `row` has `stride` numbers, a multiple of 4, and is aligned to 16 bytes.
  __device__ static LanePart Load(const float* row, int stride) {
    LanePart part;
#pragma unroll
    for (int r = 0; r < kParts; ++r) {
      const int i = r * 128 + threadIdx.x % kWarp * 4;
      float4 four = make_float4(0, 0, 0, 0);
      if (i < stride) four = *reinterpret_cast<const float4*>(row + i);
      part.v[4 * r] = four.x, part.v[4 * r + 1] = four.y;
      part.v[4 * r + 2] = four.z, part.v[4 * r + 3] = four.w;
    }
    return part;
  }
  __device__ void Store(float* row, int stride) const {
#pragma unroll
    for (int r = 0; r < kParts; ++r) {
      const int i = r * 128 + threadIdx.x % kWarp * 4;
      if (i >= stride) continue;
      *reinterpret_cast<float4*>(row + i) =
          make_float4(v[4 * r], v[4 * r + 1], v[4 * r + 2], v[4 * r + 3]);
    }
  }
  // This lane's share of the product, multiplied and added in double.
  __device__ double DotShareDouble(const LanePart& other) const {
    double sum = 0;
#pragma unroll
    for (int i = 0; i < 4 * kParts; ++i) sum += static_cast<double>(v[i]) * other.v[i];
    return sum;
  }
  __device__ float DotShare(const LanePart& other) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4 * kParts; ++i) sum = fmaf(v[i], other.v[i], sum);
    return sum;
  }
  __device__ float Dot(const LanePart& other) const { return WarpSum(DotShare(other)); }
  __device__ void Add(float factor, const LanePart& other) {
#pragma unroll
    for (int i = 0; i < 4 * kParts; ++i) v[i] = fmaf(factor, other.v[i], v[i]);
  }
};

// Two sums over the warp, in all lanes.
__device__ inline float2 WarpSumOfTwo(float a, float b) {
  const bool upper = threadIdx.x % kWarp >= 16;
  float sum = (upper ? b : a) + __shfl_xor_sync(kAllLanes, upper ? a : b, 16);
#pragma unroll
  for (int i = 8; i > 0; i /= 2) sum += __shfl_xor_sync(kAllLanes, sum, i);
  const float other = __shfl_xor_sync(kAllLanes, sum, 16);
  return upper ? make_float2(other, sum) : make_float2(sum, other);
}

struct OmpPick {
  float score;
  int atom;  // -1: none

  // The smaller index wins a tie.
  __device__ void Offer(float other_score, int other_atom) {
    const bool wins = other_score > score || (other_score == score && other_atom < atom);
    if (atom >= 0 && !wins) return;
    score = other_score;
    atom = other_atom;
  }
};

}  // namespace lexico::kernels::cuda

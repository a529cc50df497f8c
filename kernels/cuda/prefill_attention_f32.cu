// PrefillAttention in F32, for models whose results must be F32 and for head sizes that are no
// multiple of 8. Correct before fast: no tensor cores.
//
// One block a (query head, 8 consecutive queries); a warp has a query. Keys are taken in tiles of
// 32, counted from key 0, which all warps bring to shared memory, values too, as F32. A lane forms
// the score of one key of the tile; the online softmax is a warp's reduction a tile; then a lane
// has every 32nd component of the weighted sum of values and adds the keys that its query sees, in
// order. Shared memory: 32 rows of keys, filled to an odd length so that lanes read different
// banks, 32 of values, 8 of queries: 74 KiB at head_dim 256. Barriers: after a tile was brought,
// after it was used. Deterministic; a query's result does not depend on the call it is in.
// Measured (28 Nov 2026, H100 80GB HBM3, 2,048 queries, 8,192 keys, 32 heads over 8 of 128): 45 ms,
// 5 TFLOP/s.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/prefill_attention_inputs.h"
#include "kernels/cuda/warp.cuh"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kWarps = 8;  // queries of a block
constexpr int kKeys = kWarp;
constexpr int kColumnsMax = base::kHeadDimMax / kWarp;

__device__ float LoadAs(const void* from, DType type, int64_t i) {
  if (type == DType::kF32) return static_cast<const float*>(from)[i];
  if (type == DType::kF16) return __half2float(static_cast<const __half*>(from)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(from)[i]);
}

__device__ void StoreAs(void* to, DType type, int64_t i, float x) {
  if (type == DType::kF32) {
    static_cast<float*>(to)[i] = x;
  } else if (type == DType::kF16) {
    static_cast<__half*>(to)[i] = __float2half_rn(x);
  } else {
    static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16_rn(x);
  }
}

struct Shared {
  float* q;  // [kWarps, head_dim]
  float* k;  // [kKeys, KeyStride]
  float* v;  // [kKeys, head_dim]

  __host__ __device__ static int KeyStride(int head_dim) { return head_dim | 1; }
  __host__ __device__ static size_t Bytes(int head_dim) {
    return sizeof(float) * (kWarps * head_dim + kKeys * (KeyStride(head_dim) + head_dim));
  }
  __device__ Shared(float* base, int head_dim)
      : q(base),
        k(base + kWarps * head_dim),
        v(base + kWarps * head_dim + kKeys * KeyStride(head_dim)) {}
};

// One query's softmax so far.
struct Row {
  float max = -INFINITY;
  float sum = 0;
  float out[kColumnsMax] = {};
};

// Adds the `n` first keys of a tile (1 .. kKeys).
__device__ void AddTile(Row& row, const float* q, const Shared& shared, int n, int head_dim,
                        float scale) {
  const int lane = threadIdx.x % kWarp;
  float score = 0;
  const float* key = shared.k + lane * Shared::KeyStride(head_dim);
  for (int i = 0; i < head_dim; ++i) score = fmaf(q[i], key[i], score);
  score = lane < n ? score * scale : -INFINITY;
  const float larger = fmaxf(row.max, WarpMax(score));
  const float factor = row.max == larger ? 1.0f : expf(row.max - larger);
  row.max = larger;
  const float weight = expf(score - (larger == -INFINITY ? 0 : larger));
  row.sum = row.sum * factor + WarpSum(weight);
#pragma unroll
  for (int c = 0; c < kColumnsMax; ++c) row.out[c] *= factor;
  for (int t = 0; t < n; ++t) {
    const float of_key = __shfl_sync(kAllLanes, weight, t);
#pragma unroll
    for (int c = 0; c < kColumnsMax; ++c) {
      const int i = c * kWarp + lane;
      if (i < head_dim) row.out[c] = fmaf(of_key, shared.v[t * head_dim + i], row.out[c]);
    }
  }
}

__global__ void __launch_bounds__(kWarps* kWarp)
    PrefillF32Kernel(const __grid_constant__ PrefillInputs in, DType kv_type) {
  extern __shared__ float prefill_f32_shared[];
  const int head_dim = in.head_dim;
  const Shared shared(prefill_f32_shared, head_dim);
  const int head = blockIdx.y;
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int first_query = static_cast<int>(blockIdx.x) * kWarps;
  const int query = first_query + warp;
  const int64_t at = (static_cast<int64_t>(query) * in.n_heads + head) * head_dim;
  for (int i = lane; i < head_dim && query < in.n_queries; i += kWarp) {
    shared.q[warp * head_dim + i] = LoadAs(in.q, in.q_type, at + i);
  }
  const int n_seen = in.first_position + query + 1;
  const int n_visible = in.first_position + min(first_query + kWarps, in.n_queries);

  Row row;
  for (int first = 0; first < n_visible; first += kKeys) {
    const int n = min(kKeys, n_visible - first);
    __syncthreads();
    for (int i = threadIdx.x; i < n * head_dim; i += kWarps * kWarp) {
      const int t = i / head_dim;
      const int dim = i % head_dim;
      const int64_t place =
          (static_cast<int64_t>(first + t) * in.n_kv_heads + head / in.group) * head_dim + dim;
      shared.k[t * Shared::KeyStride(head_dim) + dim] = LoadAs(in.k, kv_type, place);
      shared.v[i] = LoadAs(in.v, kv_type, place);
    }
    __syncthreads();
    if (query >= in.n_queries || first >= n_seen) continue;
    AddTile(row, shared.q + warp * head_dim, shared, min(n, n_seen - first), head_dim, in.scale);
  }
  if (query >= in.n_queries) return;
#pragma unroll
  for (int c = 0; c < kColumnsMax; ++c) {
    const int i = c * kWarp + lane;
    if (i < head_dim) StoreAs(in.out, in.out_type, at + i, row.sum == 0 ? 0 : row.out[c] / row.sum);
  }
}

}  // namespace

void PrefillInF32(const Gpu& gpu, const PrefillInputs& in, DType kv_type) {
  Launch(gpu, PrefillF32Kernel,
         {"PrefillAttention in F32", dim3(CeilDiv(in.n_queries, kWarps), in.n_heads),
          kWarps * kWarp, Shared::Bytes(in.head_dim)},
         in, kv_type);
}

}  // namespace lexico::kernels::cuda

// One warp a vector: a lane holds 4 consecutive components, twice for head_dim over 128, and adds
// the atoms in stored order with one multiply-add each. All lanes read the same code, which is one
// transaction; atom rows come from L2. No shared memory, no barriers; deterministic. Bound by the
// 4 * sparsity * head_dim bytes of rows a vector out of L2 and the 4 * head_dim written. Its speed
// was not measured yet.
#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/dictionary.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reconstruct.h"
#include "kernels/cuda/warp.cuh"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kLaneComponents = 4;
constexpr int kRunsMax = base::kHeadDimMax / (kWarp * kLaneComponents);

__global__ void ReconstructKernel(const __grid_constant__ CodePages codes, const float* rows,
                                  int row_stride, int n_kv_heads, int head_dim, int64_t n_vectors,
                                  float* out) {
  const int64_t vector = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (vector >= n_vectors) return;
  const int lane = threadIdx.x % kWarp;
  const int64_t token = vector / n_kv_heads;
  const int kv_head = static_cast<int>(vector % n_kv_heads);
  const uint8_t* page = codes.pages[token / codes.page_tokens];
  const int place = static_cast<int>(token % codes.page_tokens);
  const uint16_t* atoms = codes.Atoms(codes.Block(page, kv_head), place);
  const uint8_t* coefs = codes.Coefs(codes.Block(page, kv_head), place);

  float4 sum[kRunsMax] = {};
  for (int j = 0; j < codes.sparsity; ++j) {
    const float c = E4m3PairToFloat(coefs[j]).x;
    const float* row = rows + static_cast<int64_t>(atoms[j]) * row_stride;
#pragma unroll
    for (int r = 0; r < kRunsMax; ++r) {
      const int i = (r * kWarp + lane) * kLaneComponents;
      if (i < row_stride) AddScaled(c, *reinterpret_cast<const float4*>(row + i), sum[r]);
    }
  }
  float* to = out + vector * head_dim;
#pragma unroll
  for (int r = 0; r < kRunsMax; ++r) {
    const int i = (r * kWarp + lane) * kLaneComponents;
    const float values[] = {sum[r].x, sum[r].y, sum[r].z, sum[r].w};
#pragma unroll
    for (int n = 0; n < kLaneComponents; ++n) {
      if (i + n < head_dim) to[i + n] = values[n];
    }
  }
}

}  // namespace

void Reconstruct(const ReconstructArgs& args, const Stream& stream) {
  const Dictionary& dictionary = AsCuda(*args.dictionary);
  const int64_t n_vectors = args.n_pages * args.layout.page_tokens * args.layout.n_kv_heads;
  Launch(GpuOf(stream), ReconstructKernel,
         {"Reconstruct", dim3(CeilDiv(n_vectors, kWarps)), kWarp * kWarps},
         CodePages(args.pages, args.page_offset, args.layout, args.value), dictionary.rows(),
         dictionary.row_stride(), args.layout.n_kv_heads, args.layout.head_dim, n_vectors,
         args.out.as_mutable<float>());
}

}  // namespace lexico::kernels::cuda

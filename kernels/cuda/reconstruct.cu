// Of the paper's codes, one warp a vector: a lane holds 4 consecutive components, twice for
// head_dim over 128, and adds the atoms in stored order with one multiply-add each. All lanes read
// the same code, which is one transaction; atom rows come from L2. No shared memory, no barriers;
// deterministic. Bound by the 4 * sparsity * head_dim bytes of rows a vector out of L2 and the 4 *
// head_dim written. Its speed was not measured yet.
//
// Codes of other profiles likewise, but a lane holds every 32nd component, as the rotation back of
// the residual wants it (hadamard.cuh), and places of coefficient 0 are left out.
#include "kernels/cuda/dictionary.h"
#include "kernels/cuda/family_vector.cuh"
#include "kernels/cuda/hadamard.cuh"
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

__global__ void ReconstructFamilyKernel(const __grid_constant__ FamilyPages codes,
                                        const float* rows, int row_stride, int n_kv_heads,
                                        int64_t n_vectors, float* out) {
  const int64_t vector = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (vector >= n_vectors) return;
  const int64_t token = vector / n_kv_heads;
  const uint8_t* block =
      codes.Block(codes.pages[token / codes.page_tokens], static_cast<int>(vector % n_kv_heads));
  const int place = static_cast<int>(token % codes.page_tokens);
  float sum[kRotationPartsMax] = {};
  for (int j = 0; j < codes.sparsity; ++j) {
    const CodedAtom atom = AtomAt(codes, block, place, j);
    if (atom.coefficient == 0) continue;
    const float* row = rows + static_cast<int64_t>(atom.index) * row_stride;
#pragma unroll
    for (int part = 0; part < kRotationPartsMax; ++part) {
      const int i = NumberOfLane(part);
      if (i < codes.head_dim) sum[part] = fmaf(atom.coefficient, row[i], sum[part]);
    }
  }
  if (codes.residual_bits > 0) {
    const float scale = HalfToFloat(codes.ResidualScale(block, place));
    const uint8_t* planes = codes.Planes(block, place);
    float rest[kRotationPartsMax];
#pragma unroll
    for (int part = 0; part < kRotationPartsMax; ++part) {
      const int i = NumberOfLane(part);
      rest[part] = i < codes.head_dim ? scale * LevelAt(codes, planes, i) : 0.0f;
    }
    WarpRotateBack(rest, codes.head_dim);
#pragma unroll
    for (int part = 0; part < kRotationPartsMax; ++part) sum[part] += rest[part];
  }
#pragma unroll
  for (int part = 0; part < kRotationPartsMax; ++part) {
    const int i = NumberOfLane(part);
    if (i < codes.head_dim) out[vector * codes.head_dim + i] = sum[part];
  }
}

void ReconstructFamily(const ReconstructArgs& args, const Gpu& gpu) {
  const bool atoms = args.layout.code(args.value).sparsity > 0;
  const Dictionary* dictionary = atoms ? &AsCuda(*args.dictionary) : nullptr;
  const int64_t n_vectors = args.n_pages * args.layout.page_tokens * args.layout.n_kv_heads;
  Launch(gpu, ReconstructFamilyKernel,
         {"Reconstruct Family", dim3(CeilDiv(n_vectors, kWarps)), kWarp * kWarps},
         FamilyPages(args.pages, args.page_offset, args.layout, args.value),
         atoms ? dictionary->rows() : nullptr, atoms ? dictionary->row_stride() : 0,
         args.layout.n_kv_heads, n_vectors, args.out.as_mutable<float>());
}

}  // namespace

void Reconstruct(const ReconstructArgs& args, const Stream& stream) {
  if (!args.layout.code(args.value).is_paper()) return ReconstructFamily(args, GpuOf(stream));
  const Dictionary& dictionary = AsCuda(*args.dictionary);
  const int64_t n_vectors = args.n_pages * args.layout.page_tokens * args.layout.n_kv_heads;
  Launch(GpuOf(stream), ReconstructKernel,
         {"Reconstruct", dim3(CeilDiv(n_vectors, kWarps)), kWarp * kWarps},
         CodePages(args.pages, args.page_offset, args.layout, args.value), dictionary.rows(),
         dictionary.row_stride(), args.layout.n_kv_heads, args.layout.head_dim, n_vectors,
         args.out.as_mutable<float>());
}

}  // namespace lexico::kernels::cuda

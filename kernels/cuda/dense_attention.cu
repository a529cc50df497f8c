// Decode attention over dense keys and values, split over tokens (FlashDecoding): which kernels
// run. Chunk (dense_attention_chunk.cuh) gives every chunk's partial softmax, Merge joins those of
// a sequence. Where every sequence has one chunk at most, as with windows and no pages, Chunk
// writes the outputs and is the only launch.
//
// Merge: a block a (sequence, query head). Weights of its up to 256 parts by one thread each, into
// shared memory; then 4 columns a thread, parts dealt out to slots of threads, whose sums are added
// in order. Barriers: around the block's maximum and sum, after the slots' sums. Deterministic: the
// order of additions follows from the sequence alone.
#include "kernels/cuda/dense_attention.h"
#include "kernels/cuda/dense_attention_chunk.cuh"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kMergeThreads = 256;
static_assert(2 * kChunksMax <= kMergeThreads);

// The maximum, or the sum, of one number a thread; valid in all threads.
template <typename Combine>
__device__ float OfBlock(float value, float (&shared)[kMergeThreads / kWarp],
                         const Combine& of_warp) {
  value = of_warp(value);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = shared[threadIdx.x % (kMergeThreads / kWarp)];
  __syncthreads();
  return value;
}

__global__ void __launch_bounds__(kMergeThreads)
    DenseMergeKernel(const __grid_constant__ DensePlan plan, const __grid_constant__ DenseInputs in,
                     DenseOutputs parts, DenseOutputs to) {
  WaitForPrevious();
  __shared__ float weights[kMergeThreads];
  __shared__ float of_warps[kMergeThreads / kWarp];
  __shared__ float4 sums[kMergeThreads];
  const int seq = blockIdx.y;
  const int64_t n_heads = gridDim.x;
  const int64_t row_tiles =
      (RowTokens(in, plan.first_seq + seq) + plan.tile_tokens - 1) / plan.tile_tokens;
  const int n_parts = static_cast<int>(ChunksOf(UsedPageTiles(plan, in, seq), plan.tile_tokens) +
                                       ChunksOf(row_tiles, plan.tile_tokens));
  const int64_t first = plan.slot_begin[seq] * n_heads + blockIdx.x;
  const int thread = threadIdx.x;

  const bool has_part = thread < n_parts;
  const float score = has_part ? parts.max_score[first + thread * n_heads] : -INFINITY;
  const float max = WarpMax(OfBlock(score, of_warps, [](float x) { return WarpMax(x); }));
  const float weight = has_part ? PartWeight(score, max) : 0;
  weights[thread] = weight;
  const float part_sum = has_part ? weight * parts.sum_exp[first + thread * n_heads] : 0;
  OfBlock(part_sum, of_warps, [](float x) { return WarpSum(x); });
  float sum = 0;
  for (int w = 0; w < kMergeThreads / kWarp; ++w) sum += of_warps[w];

  const int columns = in.head_dim / 4;
  const int slots = kMergeThreads / columns;
  const int column = thread % columns;
  const int slot = thread / columns;
  float4 total = {};
  if (slot < slots) {
#pragma unroll 4
    for (int p = slot; p < n_parts; p += slots) {
      const int64_t row = first + p * n_heads;
      AddScaled(weights[p], reinterpret_cast<const float4*>(parts.out)[row * columns + column],
                total);
    }
  }
  sums[thread] = total;
  __syncthreads();
  const int64_t row = (plan.first_seq + seq) * n_heads + blockIdx.x;
  if (thread == 0) {
    to.max_score[row] = max;
    to.sum_exp[row] = sum;
  }
  if (slot > 0) return;
  for (int s = 1; s < slots; ++s) AddScaled(1, sums[s * columns + column], total);
  reinterpret_cast<float4*>(to.out)[row * columns + column] = total;
}

DenseInputs InputsOf(const DenseAttentionArgs& args) {
  DenseInputs in = {};
  in.q = args.q.as<float>();
  in.rows = args.rows;
  in.rows_max = static_cast<int>(args.rows_max);
  in.n_kv_heads = args.n_kv_heads;
  in.group = static_cast<int>(args.q.dim(1)) / args.n_kv_heads;
  in.head_dim = static_cast<int>(args.q.dim(2));
  in.scale = args.scale;
  if (args.page_begin != nullptr && args.page_begin[args.q.dim(0)] > 0) {
    in.pages = args.pages;
    in.n_pages = args.n_pages;
    in.page_k = args.page_offset + static_cast<int64_t>(args.layout.head_offset(false, 0));
    in.page_v = args.page_offset + static_cast<int64_t>(args.layout.head_offset(true, 0));
    in.page_head_bytes = static_cast<int64_t>(args.layout.head_bytes(false));
  }
  return in;
}

void LaunchChunksOf(DType type, const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                    const DenseOutputs& to) {
  if (type == DType::kBF16) return LaunchChunksBf16(gpu, plan, in, to);
  if (type == DType::kF16) return LaunchChunksF16(gpu, plan, in, to);
  LaunchChunksF32(gpu, plan, in, to);
}

}  // namespace

void DenseAttention(const DenseAttentionArgs& args, const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  const int64_t n_heads = args.q.dim(1);
  LEXICO_CHECK_EQ(args.q.dim(2) % kLaneDims, 0);
  LEXICO_CHECK_EQ(args.page_offset % 16, 0);
  const DenseInputs in = InputsOf(args);
  const DenseOutputs outputs = {args.out.as_mutable<float>(), args.max_score.as_mutable<float>(),
                                args.sum_exp.as_mutable<float>()};
  DensePlanner planner(args, gpu.workspace_bytes());
  DensePlan plan;
  while (planner.Next(plan)) {
    if (plan.direct) {
      LaunchChunksOf(args.kv_type, gpu, plan, in, outputs);
      continue;
    }
    WorkspaceCutter cutter(gpu.workspace());
    const DenseParts parts(cutter, plan.n_slots(), n_heads, in.head_dim);
    const DenseOutputs to_parts = {parts.out, parts.max_score, parts.sum_exp};
    LaunchChunksOf(args.kv_type, gpu, plan, in, to_parts);
    Launch(gpu, DenseMergeKernel,
           {"DenseAttention Merge", dim3(n_heads, plan.n_seqs), kMergeThreads, 0, kOverlaps}, plan,
           in, to_parts, outputs);
  }
}

}  // namespace lexico::kernels::cuda

// OmpEncode for many vectors: search and step by turns in one kernel. A block takes 128 vectors to
// their end; a multiprocessor holds two blocks, so that the tensor cores search for one while the
// other one, in chains of dependent loads and sums, takes atoms.
//
// The same functions as in the kernels for few vectors, so the same bits. Barriers: one of the
// block a step, before the search; a warp takes atoms for the vectors that it has searched for.
#pragma once

#include "kernels/cuda/omp_kernels.cuh"
#include "kernels/cuda/omp_search.cuh"

namespace lexico::kernels::cuda {

inline constexpr int kFusedVectors = 128;
inline constexpr int kFusedThreads = kFusedVectors / kGroupVectors * kGroupThreads;
inline constexpr int kFusedBlocks = 2;  // of a multiprocessor

template <int kDim>
constexpr size_t FusedSharedBytes() {
  return 1024 + StreamSharedBytes(SearchStream<kDim>::kBytes) +
         kFusedThreads / kWarp * sizeof(PursuitScratch);
}

template <int kDim, bool kPacked, int kCached, int kOwn>
__global__ void __launch_bounds__(kFusedThreads, kFusedBlocks)
    FusedKernel(const __grid_constant__ OmpState state, const __grid_constant__ OmpAtoms atoms,
                const char* tiles, int n_tiles, const float* x, int head_dim, float stop) {
  static_assert(kDim <= 128);  // registers of two blocks
  extern __shared__ char fused_shared[];
  char* stream_shared = AlignStream(fused_shared);
  const int warp = threadIdx.x / kWarp;
  PursuitScratch& scratch = reinterpret_cast<PursuitScratch*>(
      stream_shared + StreamSharedBytes(SearchStream<kDim>::kBytes))[warp];
  const int first_vector = blockIdx.x * kFusedVectors;
  SearchStream<kDim> stream(stream_shared, tiles, n_tiles, state.sparsity);
  int step = 0;
  for (; step < state.sparsity && BlockIsRunning(state, first_vector); ++step) {
    SearchRanges<kDim>(state, n_tiles, first_vector, 0, kSearchRanges, step * n_tiles, stream);
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < 16; i += 2) {
      StepPair<1, kPacked, kCached, kOwn>(state, atoms, first_vector + warp * 16 + i, scratch, x,
                                          head_dim, stop);
    }
    __syncwarp();
  }
  stream.Drain(step * n_tiles);
}

}  // namespace lexico::kernels::cuda

// The search of OmpEncode: the largest |<r, d>| of every vector, on tensor cores.
//
// A warp keeps 16 residuals in registers, as the left operand of F16 products with F32 sums, and
// goes through the atoms, which come through shared memory in tiles (omp_stream.cuh). The products
// never leave the registers: a lane keeps, for each of its 2 vectors, the largest and where it was.
// A lane of a quad sees 2 of every 8 atoms, its class; at the end of a range it writes its largest.
//
// The largest of a tile and its place are one number: the place, counted from the tile's end so
// that the smaller index wins a tie, in the 4 lowest bits of the product (2^-19 of it).
//
// Candidates of a vector, whatever the batch: the best pair of 8 ranges x 4 classes. Rounding r
// and d to F16 moves a product by at most 2^-11 of sum |r_i d_i| each; the choice among candidates
// within kSearchError of the largest is made in F32 (omp_exact.cuh).
#pragma once

#include "kernels/cuda/omp_multiply.cuh"
#include "kernels/cuda/omp_state.h"
#include "kernels/cuda/omp_stream.cuh"

namespace lexico::kernels::cuda {

// Of a product of vectors of norm 1: 2^-10 for rounding both, the rest for F32 sums and places.
inline constexpr float kSearchError = 1.1e-3f;

// Vectors of 4 warps, which multiply together.
inline constexpr int kGroupVectors = 64;
inline constexpr int kGroupThreads = 128;
// The first tile of a range; the next range's first is its end. Few tiles leave ranges empty.
__host__ __device__ constexpr int SearchRangeBegin(int range, int n_tiles) {
  return range * n_tiles / kSearchRanges;
}
// The most groups of a block; the registers of a multiprocessor hold as many.
inline constexpr int kSearchGroupsMax = 4;

// The 16 vectors of a warp.
template <int kDim>
struct SearchRows {
  static constexpr int kSteps = kDim / 16;
  static constexpr int kTileAtoms = Dictionary::SearchTileAtoms(kDim);
  static constexpr uint32_t kPlaces = kTileAtoms / 8 - 1;  // bits of a place

  uint32_t a[kSteps][4];
  float best[2];  // of rows lane / 4 and lane / 4 + 8
  int tile[2];

  __device__ void Load(const __half* rows) {
    const int lane = threadIdx.x % 32;
    const __half* from = rows + lane / 4 * kDim + lane % 4 * 2;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[k][i] = *reinterpret_cast<const uint32_t*>(from + i % 2 * 8 * kDim + k * 16 + i / 2 * 8);
      }
    }
  }
  __device__ void Reset() {
    best[0] = best[1] = -1;
    tile[0] = tile[1] = 0;
  }
  __device__ void Visit(uint32_t stage, int t) {
    TileSums<kTileAtoms> sums;
    MultiplyTile<kTileAtoms, kSteps>(a, stage, sums);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = 0;
#pragma unroll
      for (int g = 0; g < kTileAtoms / 8; ++g) {
        const float score = fmaxf(fabsf(sums.v[g][2 * half]), fabsf(sums.v[g][2 * half + 1]));
        const uint32_t placed = (__float_as_uint(score) & ~kPlaces) | (kPlaces - g);
        largest = fmaxf(largest, __uint_as_float(placed));
      }
      if (largest > __uint_as_float(__float_as_uint(best[half]) | kPlaces)) {
        best[half] = largest;
        tile[half] = t;
      }
    }
  }
  // The best pair of row lane / 4 + 8 * half.
  __device__ OmpCandidate Best(int half) const {
    const int group = kPlaces - (__float_as_uint(best[half]) & kPlaces);
    return {best[half],
            tile[half] * kTileAtoms + group * 8 + static_cast<int>(threadIdx.x) % 4 * 2};
  }
};

template <int kDim>
using SearchStream = TileStream<SearchRows<kDim>::kTileAtoms * kDim * sizeof(__half)>;

// The candidates of `n_ranges` ranges for the block's vectors, 16 a warp. The stream stands at the
// first range's first tile, its `position`.
template <int kDim>
__device__ void SearchRanges(const OmpState& state, int n_tiles, int first_vector, int first_range,
                             int n_ranges, int position, SearchStream<kDim>& stream) {
  first_vector += threadIdx.x / 32 * 16;
  SearchRows<kDim> rows;
  rows.Load(state.halves + static_cast<int64_t>(first_vector) * kDim);
  position -= SearchRangeBegin(first_range, n_tiles);
  for (int range = first_range; range < first_range + n_ranges; ++range) {
    rows.Reset();
    const int end = SearchRangeBegin(range + 1, n_tiles);
    for (int t = SearchRangeBegin(range, n_tiles); t < end; ++t) {
      rows.Visit(stream.Acquire(position + t), t);
      stream.Release(position + t);
    }
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int vector = first_vector + half * 8 + lane / 4;
      if (vector >= state.n_vectors) continue;
      state.candidates[(static_cast<int64_t>(vector) * kSearchRanges + range) * kSearchClasses +
                       lane % 4] = rows.Best(half);
    }
  }
}

// Whether a vector of the block is not done. All threads call, and have passed a barrier after.
__device__ inline bool BlockIsRunning(const OmpState& state, int first_vector) {
  const bool mine = threadIdx.x < blockDim.x / 2 && state.done[first_vector + threadIdx.x] == 0;
  return __syncthreads_or(mine) != 0;
}

// The stream's memory in the block's.
__device__ inline char* AlignStream(char* shared) {
  return shared + (1024 - SharedAddress(shared) % 1024) % 1024;
}

// Grid: (blocks of vectors, groups of ranges). Blocks whose vectors are all done leave at once.
template <int kDim>
__global__ void __launch_bounds__(kGroupThreads* kSearchGroupsMax, 1)
    SearchKernel(const __grid_constant__ OmpState state, const char* tiles, int n_tiles,
                 int ranges_per_block) {
  extern __shared__ char search_shared[];
  const int first_vector = blockIdx.x * blockDim.x / 2;
  if (!BlockIsRunning(state, first_vector)) return;
  const int first_range = blockIdx.y * ranges_per_block;
  const int first_tile = SearchRangeBegin(first_range, n_tiles);
  const int last_tile = SearchRangeBegin(first_range + ranges_per_block, n_tiles);
  SearchStream<kDim> stream(AlignStream(search_shared),
                            tiles + static_cast<int64_t>(first_tile) * SearchStream<kDim>::kBytes,
                            last_tile - first_tile, 1);
  SearchRanges<kDim>(state, n_tiles, first_vector, first_range, ranges_per_block, 0, stream);
}

}  // namespace lexico::kernels::cuda

// The search of OmpEncode: the largest |<r, d>| of every vector, on tensor cores.
//
// A block takes 4 warps of kRows vectors; a warp keeps its residuals in registers, as the left
// operand of m16n8k16 products in F16 with F32 sums, and goes through the atoms, which come through
// shared memory in stages of 64 while the stage before is multiplied. The products never leave the
// registers: a lane keeps, for each of its vectors, the largest and where it was. A lane of a quad
// sees 2 of every 8 atoms, its class; at the end of a range it writes its largest.
//
// Candidates of a vector, whatever the batch: the best pair of 8 ranges x 4 classes. Rounding r
// and d to F16 moves a product by at most 2^-11 of sum |r_i d_i| each; the choice among candidates
// within kSearchError of the largest is made in F32 (omp_pursuit.cuh).
//
// Shared memory: 2 stages of 64 atoms, rows padded by 16 bytes so that the 8 rows of an ldmatrix
// meet every bank once. Barriers: before a stage is read, and before it is overwritten.
#pragma once

#include "kernels/cuda/omp_state.h"

namespace lexico::kernels::cuda {

inline constexpr int kSearchWarps = 4;
inline constexpr int kSearchThreads = 32 * kSearchWarps;
inline constexpr int kSearchPad = 8;  // halves

// Of a product of vectors of norm 1: 2^-10 for rounding both, the rest for F32 sums.
inline constexpr float kSearchError = 1.1e-3f;

// Vectors of a block. More than 128 components: half as many, for they fill the registers.
__host__ __device__ constexpr int SearchRows(int dim) { return dim > 128 ? 16 : 32; }
__host__ __device__ constexpr int SearchBlockVectors(int dim) {
  return kSearchWarps * SearchRows(dim);
}
constexpr size_t SearchSharedBytes(int dim) {
  return size_t{2} * kSearchStageAtoms * (dim + kSearchPad) * sizeof(__half);
}

#ifdef __CUDACC__

__device__ inline void CopyAsync16(void* shared, const void* global) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global));
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;"); }
// Waits for all groups of this thread but the newest kPending.
template <int kPending>
__device__ inline void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending));
}

__device__ inline void LoadMatrices(const __half* shared, uint32_t (&words)[4]) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(from));
}

// sums += a b, a [16, 16] and b [16, 8].
__device__ inline void Multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                float (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int kDim>
__device__ void CopyStage(const __half* atoms, __half* stage) {
  constexpr int kChunks = kDim / 8;
  for (int i = threadIdx.x; i < kSearchStageAtoms * kChunks; i += kSearchThreads) {
    const int row = i / kChunks;
    const int column = i % kChunks * 8;
    CopyAsync16(stage + row * (kDim + kSearchPad) + column, atoms + row * kDim + column);
  }
  CommitCopies();
}

// One warp's vectors: `kTiles` tiles of 16.
template <int kDim>
struct SearchRowsOfWarp {
  static constexpr int kTiles = SearchRows(kDim) / 16;
  static constexpr int kSteps = kDim / 16;
  uint32_t a[kTiles][kSteps][4];
  float best[kTiles][2];  // of rows lane / 4 and lane / 4 + 8
  int pair[kTiles][2];

  __device__ void Load(const __half* rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const __half* from = rows + (t * 16 + lane / 4) * kDim + lane % 4 * 2;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[t][k][i] =
              *reinterpret_cast<const uint32_t*>(from + i % 2 * 8 * kDim + k * 16 + i / 2 * 8);
        }
      }
    }
  }
  __device__ void Reset() {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      best[t][0] = best[t][1] = -1;
      pair[t][0] = pair[t][1] = 0;
    }
  }
  // The 64 atoms of a stage, the first of them `first_atom`.
  __device__ void Visit(const __half* stage, int first_atom) {
    const int lane = threadIdx.x % 32;
    const __half* from = stage + lane % 8 * (kDim + kSearchPad) + lane / 8 * 8;
#pragma unroll 2
    for (int n = 0; n < kSearchStageAtoms; n += 8) {
      float sums[kTiles][4] = {};
#pragma unroll
      for (int k = 0; k < kSteps; k += 2) {
        uint32_t b[4];
        LoadMatrices(from + n * (kDim + kSearchPad) + k * 16, b);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          Multiply(a[t][k], b[0], b[1], sums[t]);
          Multiply(a[t][k + 1], b[2], b[3], sums[t]);
        }
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float score = fmaxf(fabsf(sums[t][2 * half]), fabsf(sums[t][2 * half + 1]));
          if (score > best[t][half]) {
            best[t][half] = score;
            pair[t][half] = first_atom + n;
          }
        }
      }
    }
  }
};

// Grid: (blocks of vectors, groups of ranges). Blocks whose vectors are all done leave at once.
template <int kDim>
__global__ void __launch_bounds__(kSearchThreads)
    SearchKernel(const __grid_constant__ OmpState state, const __half* atoms, int range_atoms,
                 int ranges_per_block) {
  extern __shared__ float4 shared[];
  auto* stages = reinterpret_cast<__half*>(shared);
  constexpr int kStageHalves = kSearchStageAtoms * (kDim + kSearchPad);
  const int first_of_block = blockIdx.x * SearchBlockVectors(kDim);
  const int mine = first_of_block + static_cast<int>(threadIdx.x);
  const bool running = threadIdx.x < SearchBlockVectors(kDim) && state.done[mine] == 0;
  if (__syncthreads_or(running) == 0) return;

  const int first_vector = first_of_block + threadIdx.x / 32 * SearchRows(kDim);
  SearchRowsOfWarp<kDim> rows;
  rows.Load(state.halves + static_cast<int64_t>(first_vector) * kDim);
  const int first_range = blockIdx.y * ranges_per_block;
  const int stages_per_range = range_atoms / kSearchStageAtoms;
  const int n_stages = ranges_per_block * stages_per_range;
  const __half* from = atoms + static_cast<int64_t>(first_range) * range_atoms * kDim;
  CopyStage<kDim>(from, stages);
  rows.Reset();
  for (int s = 0; s < n_stages; ++s) {
    if (s + 1 < n_stages) {
      CopyStage<kDim>(from + static_cast<int64_t>(s + 1) * kSearchStageAtoms * kDim,
                      stages + (s + 1) % 2 * kStageHalves);
      WaitCopies<1>();
    } else {
      WaitCopies<0>();
    }
    __syncthreads();
    rows.Visit(stages + s % 2 * kStageHalves, first_range * range_atoms + s * kSearchStageAtoms);
    __syncthreads();
    if ((s + 1) % stages_per_range != 0) continue;
    const int range = first_range + s / stages_per_range;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < rows.kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int vector = first_vector + t * 16 + half * 8 + lane / 4;
        if (vector >= state.n_vectors) continue;
        state.candidates[(static_cast<int64_t>(vector) * kSearchRanges + range) * kSearchClasses +
                         lane % 4] = {rows.best[t][half], rows.pair[t][half] + lane % 4 * 2};
      }
    }
    rows.Reset();
  }
}

#endif  // __CUDACC__

}  // namespace lexico::kernels::cuda

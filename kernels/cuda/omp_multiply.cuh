// Products of the search of OmpEncode on tensor cores: 16 residuals of a warp with a tile of atoms,
// F16 with F32 sums. Hopper multiplies by warpgroups of 4 warps (wgmma), which read the atoms from
// shared memory once for 64 residuals; what is older or newer by warps (mma.sync).
//
// A tile in memory, global and shared: slabs of 64 components, each [atoms][64] with the 16-byte
// chunk c of atom a at place c ^ (a % 8) of its row: the layout that wgmma calls 128-byte swizzle,
// K-major, and that ldmatrix reads without meeting a bank twice.
//
// Fragments (PTX ISA, "wgmma m64nNk16" and "mma m16n8k16", the same for a warp): lane l holds of
// the residuals rows l / 4 and l / 4 + 8, components l % 4 * 2 + {0, 1} and 8 more of every 16; of
// the products, for the same rows, atoms l % 4 * 2 + {0, 1} of every 8.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/mma.cuh"

namespace lexico::kernels::cuda {

inline constexpr int kSlabDim = 64;  // components of a slab: rows of 128 bytes

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LEXICO_WARPGROUP_MULTIPLY 1
#endif

// Products of 16 residuals with kAtoms atoms: sums[8-atom group][as mma.sync has them].
template <int kAtoms>
struct TileSums {
  float v[kAtoms / 8][4];
};

#ifdef LEXICO_WARPGROUP_MULTIPLY

// sm_90: address / 16; 1024 bytes from 8 rows to the next 8; swizzle of 128 bytes.
__device__ inline uint64_t MatrixDescriptor(uint32_t address) {
  return (static_cast<uint64_t>(address & 0x3ffff) >> 4) | (uint64_t{1} << 16) |
         (uint64_t{1024 / 16} << 32) | (uint64_t{1} << 62);
}

#define LEXICO_SUMS8(g)                                                                    \
  "+f"(s.v[g][0]), "+f"(s.v[g][1]), "+f"(s.v[g][2]), "+f"(s.v[g][3]), "+f"(s.v[g + 1][0]), \
      "+f"(s.v[g + 1][1]), "+f"(s.v[g + 1][2]), "+f"(s.v[g + 1][3])

// s = a b + (add ? s : 0)
__device__ inline void MultiplyWarpgroup(TileSums<128>& s, const uint32_t (&a)[4], uint64_t b,
                                         int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, add, 1, 1, 0;\n}"
      : LEXICO_SUMS8(0), LEXICO_SUMS8(2), LEXICO_SUMS8(4), LEXICO_SUMS8(6), LEXICO_SUMS8(8),
        LEXICO_SUMS8(10), LEXICO_SUMS8(12), LEXICO_SUMS8(14)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ inline void MultiplyWarpgroup(TileSums<64>& s, const uint32_t (&a)[4], uint64_t b,
                                         int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, 0;\n}"
      : LEXICO_SUMS8(0), LEXICO_SUMS8(2), LEXICO_SUMS8(4), LEXICO_SUMS8(6)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
#undef LEXICO_SUMS8

// All 4 warps of the warpgroup call together.
template <int kAtoms, int kSteps>
__device__ void MultiplyTile(const uint32_t (&a)[kSteps][4], uint32_t tile,
                             TileSums<kAtoms>& sums) {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    const uint32_t slab = tile + k / 4 * kAtoms * kSlabDim * 2;
    MultiplyWarpgroup(sums, a[k], MatrixDescriptor(slab + k % 4 * 32), k > 0);
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  // Keeps every use of the sums behind the wait.
#pragma unroll
  for (int g = 0; g < kAtoms / 8; ++g) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sums.v[g][i])::"memory");
  }
}

#else

template <int kAtoms, int kSteps>
__device__ void MultiplyTile(const uint32_t (&a)[kSteps][4], uint32_t tile,
                             TileSums<kAtoms>& sums) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int g = 0; g < kAtoms / 8; ++g) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums.v[g][i] = 0;
#pragma unroll
    for (int k = 0; k < kSteps; k += 2) {
      const uint32_t slab = tile + k / 4 * kAtoms * kSlabDim * 2;
      uint32_t b[4];
      LoadMatrices(slab + SwizzledOffset<8>(g * 8 + lane % 8, k % 4 * 2 + lane / 8), b);
      MultiplyAdd<__half>(sums.v[g], a[k], b[0], b[1]);
      MultiplyAdd<__half>(sums.v[g], a[k + 1], b[2], b[3]);
    }
  }
}

#endif

}  // namespace lexico::kernels::cuda

// Tiles of a dictionary through shared memory, in order and again from the first, each used by all
// warps of a block.
//
// On Hopper one thread asks the copy engine for a whole tile (cp.async.bulk), which counts its
// bytes on a barrier in shared memory; a warp waits for the tile it needs only, and says when it
// has used one, so that warps may be a tile apart. Elsewhere all threads copy (cp.async), and the
// block meets once a tile.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/omp_multiply.cuh"

namespace lexico::kernels::cuda {

inline constexpr int kStreamStages = 3;
inline constexpr int kStreamBarrierBytes = 1024;  // and a tile begins at a multiple of 1024

__host__ __device__ constexpr size_t StreamSharedBytes(int tile_bytes) {
  return kStreamBarrierBytes + size_t{kStreamStages} * tile_bytes;
}

#ifdef LEXICO_WARPGROUP_MULTIPLY

__device__ inline void WaitForPhase(uint32_t barrier, uint32_t phase) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ready;\nbra again;\nready:\n}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}

template <int kTileBytes>
class TileStream {
 public:
  static constexpr int kBytes = kTileBytes;  // of a tile

  // `shared`: StreamSharedBytes(kTileBytes), aligned to 1024. All threads of the block call.
  __device__ TileStream(char* shared, const char* tiles, int n_tiles, int rounds)
      : barriers_(SharedAddress(shared)),
        tiles_(tiles),
        n_tiles_(n_tiles),
        n_copies_(n_tiles * rounds) {
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStreamStages; ++s) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(Full(s)));
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(Empty(s)),
                     "r"(blockDim.x / 32));
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int t = 0; t < kStreamStages && t < n_copies_; ++t) Copy(t);
    }
  }
  // The tile's address in shared memory, when it is there.
  __device__ uint32_t Acquire(int t) {
    WaitForPhase(Full(t % kStreamStages), t / kStreamStages % 2);
    return Stage(t % kStreamStages);
  }
  // This warp has used the tile. The thread that copies looks at the tile before, which the other
  // warps have probably used as well.
  __device__ void Release(int t) {
    if (threadIdx.x % 32 == 0) {
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(Empty(t % kStreamStages))
                   : "memory");
    }
    const int next = t - 1 + kStreamStages;
    if (threadIdx.x == 0 && t > 0 && next < n_copies_) {
      WaitForPhase(Empty(next % kStreamStages), (t - 1) / kStreamStages % 2);
      Copy(next);
    }
    __syncwarp();
  }
  // Waits for the copies under way when the block ends before tile t: a copy must not outlive it.
  __device__ void Drain(int t) const {
    if (threadIdx.x != 0) return;
    for (const int end = min(t + kStreamStages - (t > 0 ? 1 : 0), n_copies_); t < end; ++t) {
      WaitForPhase(Full(t % kStreamStages), t / kStreamStages % 2);
    }
  }

 private:
  __device__ uint32_t Full(int s) const { return barriers_ + s * 8; }
  __device__ uint32_t Empty(int s) const { return barriers_ + (kStreamStages + s) * 8; }
  __device__ uint32_t Stage(int s) const {
    return barriers_ + kStreamBarrierBytes + s * kTileBytes;
  }
  __device__ void Copy(int t) {
    const int s = t % kStreamStages;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(Full(s)),
                 "r"(kTileBytes)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(Stage(s)),
        "l"(tiles_ + static_cast<int64_t>(t % n_tiles_) * kTileBytes), "r"(kTileBytes), "r"(Full(s))
        : "memory");
  }

  const uint32_t barriers_;
  const char* const tiles_;
  const int n_tiles_;
  const int n_copies_;
};

#else

template <int kTileBytes>
class TileStream {
 public:
  static constexpr int kBytes = kTileBytes;  // of a tile
  __device__ TileStream(char* shared, const char* tiles, int n_tiles, int rounds)
      : stages_(SharedAddress(shared) + kStreamBarrierBytes),
        tiles_(tiles),
        n_tiles_(n_tiles),
        n_copies_(n_tiles * rounds) {
    for (int t = 0; t < kStreamStages - 1; ++t) Copy(t);
  }
  __device__ uint32_t Acquire(int t) {
    WaitForCopies<kStreamStages - 2>();
    __syncthreads();
    Copy(t + kStreamStages - 1);  // into the stage that all have used before the barrier
    return stages_ + t % kStreamStages * kTileBytes;
  }
  __device__ void Release(int) {}
  __device__ void Drain(int) const { WaitForCopies<0>(); }

 private:
  __device__ void Copy(int t) {
    if (t < n_copies_) {
      const char* from = tiles_ + static_cast<int64_t>(t % n_tiles_) * kTileBytes;
      const uint32_t to = stages_ + t % kStreamStages * kTileBytes;
      for (int i = threadIdx.x * 16; i < kTileBytes; i += blockDim.x * 16) {
        CopyAsync(to + i, from + i, true);
      }
    }
    CommitCopies();
  }

  const uint32_t stages_;
  const char* const tiles_;
  const int n_tiles_;
  const int n_copies_;
};

#endif

}  // namespace lexico::kernels::cuda

// A block adds up a part of the numbers, on all ranks the same, and waits for the same block of the
// other ranks only; blocks are few, so that those of a launch run at the same time.
//
// A mailbox has two places for every rank and block, used in turns: a block writes to one again
// only after it has heard, in the launch between, from the reader, whose launch before that has
// then ended. Numbers are read past L1 (__ldcg); a flag is stored with release and loaded with
// acquire at the scope of the system, so numbers are there when their flag is.
//
// Deterministic: sums go in the order of the ranks.
#include <cuda_runtime.h>

#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/peer_sum.h"
#include "proto/base/check.h"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocks = 32;
constexpr int kGroupsMax = 2048;  // of four numbers, of a block
constexpr int64_t kNumbersMax = int64_t{4} * kBlocks * kGroupsMax;
static_assert(base::kRanksMax <= kThreads);

// Of one GPU: flags and counters, then numbers [2, n_ranks, kBlocks, kGroupsMax].
struct BoxHead {
  uint32_t flags[base::kRanksMax][kBlocks];  // the last launch whose numbers are there
  uint32_t launches[kBlocks];                // of this GPU, that used the block
};
constexpr size_t kHeadBytes = (sizeof(BoxHead) + 255) / 256 * 256;

size_t BoxBytes(int n_ranks) {
  return kHeadBytes + size_t{2} * n_ranks * kBlocks * kGroupsMax * sizeof(float4);
}

struct Boxes {
  char* of_rank[base::kRanksMax];
  int rank;
  int size;

  __device__ BoxHead& head(int at) const { return *reinterpret_cast<BoxHead*>(of_rank[at]); }
  // Where rank `from` puts a block's numbers on the GPU of rank `at`.
  __device__ float4* place(int at, int from, uint32_t launch) const {
    const size_t index = ((launch % 2) * size + from) * kBlocks + blockIdx.x;
    return reinterpret_cast<float4*>(of_rank[at] + kHeadBytes) + index * kGroupsMax;
  }
};

__device__ void StoreRelease(uint32_t* to, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

__device__ uint32_t LoadAcquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}

__device__ float4 Add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

// Groups [begin, begin + count) of x are the block's.
__global__ void __launch_bounds__(kThreads)
    PeerSumKernel(const __grid_constant__ Boxes boxes, float4* x, int n_groups, int part) {
  const int begin = blockIdx.x * part;
  const int count = min(part, n_groups - begin);
  const uint32_t launch = boxes.head(boxes.rank).launches[blockIdx.x] + 1;
  x += begin;
  for (int peer = 0; peer < boxes.size; ++peer) {
    if (peer == boxes.rank) continue;
    float4* const to = boxes.place(peer, boxes.rank, launch);
    for (int i = threadIdx.x; i < count; i += kThreads) to[i] = x[i];
  }
  __syncthreads();
  const int peer = threadIdx.x;
  if (peer < boxes.size && peer != boxes.rank) {
    __threadfence_system();
    StoreRelease(&boxes.head(peer).flags[boxes.rank][blockIdx.x], launch);
    const uint32_t* const flag = &boxes.head(boxes.rank).flags[peer][blockIdx.x];
    // A peer may be one launch ahead, but no more.
    while (static_cast<int32_t>(LoadAcquire(flag) - launch) < 0) {
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const float4 own = x[i];
    float4 sum = boxes.rank == 0 ? own : __ldcg(boxes.place(boxes.rank, 0, launch) + i);
    for (int from = 1; from < boxes.size; ++from) {
      sum = Add(sum, from == boxes.rank ? own : __ldcg(boxes.place(boxes.rank, from, launch) + i));
    }
    x[i] = sum;
  }
  if (threadIdx.x == 0) boxes.head(boxes.rank).launches[blockIdx.x] = launch;
}

// Lets `gpu` write to the memory of `peer`. False where it cannot.
bool Reach(const Gpu& gpu, const Gpu& peer) {
  int can = 0;
  LEXICO_CUDA_CHECK(cudaDeviceCanAccessPeer(&can, gpu.ordinal(), peer.ordinal()));
  if (can == 0) return false;
  gpu.MakeCurrent();
  const cudaError_t error = cudaDeviceEnablePeerAccess(peer.ordinal(), 0);
  if (error == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();
    return true;
  }
  LEXICO_CUDA_CHECK(error);
  return true;
}

}  // namespace

std::unique_ptr<PeerSum> PeerSum::Create(std::span<const Stream> streams) {
  LEXICO_CHECK_LE(streams.size(), static_cast<size_t>(base::kRanksMax));
  for (const Stream& stream : streams) {
    for (const Stream& peer : streams) {
      const bool same = stream.device() == peer.device();
      if (!same && !Reach(GpuOf(stream), GpuOf(peer))) return nullptr;
    }
  }
  const size_t bytes = BoxBytes(static_cast<int>(streams.size()));
  std::unique_ptr<PeerSum> sum(new PeerSum({}));
  for (const Stream& stream : streams) {
    auto* const memory = static_cast<char*>(stream.device()->Allocate(bytes));
    if (memory == nullptr) return nullptr;
    sum->boxes_.push_back({stream.device(), memory});
    stream.device()->Zero(memory, bytes);
    stream.device()->Synchronize();
  }
  return sum;
}

PeerSum::~PeerSum() {
  for (const Mailbox& box : boxes_) box.device->Synchronize();
  for (const Mailbox& box : boxes_) box.device->Free(box.memory);
}

bool PeerSum::Fits(const float* x, int64_t n) {
  return n > 0 && n % 4 == 0 && n <= kNumbersMax && reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

void PeerSum::Run(int rank, float* x, int64_t n, const Gpu& gpu) const {
  LEXICO_CHECK(Fits(x, n));
  Boxes boxes = {};
  boxes.rank = rank;
  boxes.size = static_cast<int>(boxes_.size());
  for (int i = 0; i < boxes.size; ++i) boxes.of_rank[i] = boxes_[i].memory;
  const auto n_groups = static_cast<int>(n / 4);
  const auto blocks = static_cast<int>(std::min<int64_t>(kBlocks, CeilDiv(n_groups, kThreads)));
  const auto part = static_cast<int>(CeilDiv(n_groups, blocks));
  Launch(gpu, PeerSumKernel,
         {.kernel = "PeerSum", .blocks = static_cast<unsigned>(blocks), .threads = kThreads}, boxes,
         reinterpret_cast<float4*>(x), n_groups, part);
}

}  // namespace lexico::kernels::cuda

// A thread owns the 16-byte words at one offset modulo `shift` of one part and moves them in
// ascending order: it overwrites only what it has read itself, so ranges may overlap without a
// barrier. Bytes read and written once, coalesced. No shared memory; deterministic.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/shift_down.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Sizes in words of 16 bytes.
__global__ void ShiftDownKernel(uint4* base, int64_t part_stride, int64_t shift, int64_t kept) {
  uint4* part = base + blockIdx.y * part_stride;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (first >= shift) return;
  for (int64_t i = first; i < kept; i += shift) part[i] = part[i + shift];
}

}  // namespace

void ShiftDown(const ShiftDownArgs& args, const Stream& stream) {
  constexpr int64_t kWord = sizeof(uint4);
  constexpr int64_t kPartsMax = 65535;  // of a grid's second dimension
  const auto shift = static_cast<int64_t>(args.shift) / kWord;
  for (int64_t first = 0; first < args.n_parts; first += kPartsMax) {
    const int64_t n = std::min(kPartsMax, args.n_parts - first);
    Launch(GpuOf(stream), ShiftDownKernel,
           {"ShiftDown", dim3(CeilDiv(shift, kThreads), n), kThreads},
           reinterpret_cast<uint4*>(args.base + first * args.part_stride),
           static_cast<int64_t>(args.part_stride) / kWord, shift,
           static_cast<int64_t>(args.kept) / kWord);
  }
}

}  // namespace lexico::kernels::cuda

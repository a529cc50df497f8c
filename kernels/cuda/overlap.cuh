// Kernels that start while the one before them in their stream ends (programmatic dependent launch,
// compute capability 9.0): their blocks are there, with what they can read ahead, when the results
// that they need are.
//
// Such a kernel is launched with LaunchShape::overlaps, and all its threads call WaitForPrevious
// before they read what an op has written or write anything. Before that they may read what no op
// of a step writes: weights, dictionaries, page tables, codes. The next kernel may start only when
// all blocks of this one have come past their wait. So whatever starts knows that everything before
// its neighbour has finished, and a chain of such kernels is in order like any other.
#pragma once

namespace lexico::kernels::cuda {

// Returns when the kernel before has finished and its results are visible. Elsewhere than on 9.0
// it has by then.
__device__ inline void WaitForPrevious() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace lexico::kernels::cuda

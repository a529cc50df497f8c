// Copies from global to shared memory in the background (cp.async), by thread: what a thread has
// copied itself it sees after WaitForCopies, other threads after a barrier as well.
#pragma once

#include <cstdint>

namespace lexico::kernels::cuda {

__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// 16 bytes, aligned to 16; zeros where `exists` is false, without a read. kL1: kept in L1 for
// other warps of the multiprocessor.
template <bool kL1 = false>
__device__ inline void CopyAsync(uint32_t to, const void* from, bool exists) {
  if constexpr (kL1) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(exists ? 16 : 0)
                 : "memory");
  } else {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(exists ? 16 : 0)
                 : "memory");
  }
}

// Copies since the last call are one group.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until no more than kPending groups, the newest ones, are under way.
template <int kPending = 0>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace lexico::kernels::cuda

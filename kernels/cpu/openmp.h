// How OpenMP's threads wait for one another.
//
// GNU OpenMP lets an idle thread spin for milliseconds before it sleeps, unless told otherwise in
// the environment. Two workers on one machine, or a worker beside anything else, then burn the
// cores the other needs. It reads the environment when it is loaded, before main, so a process
// that wants another policy has to start again with the variable set.
#pragma once

#include <cstdint>

namespace lexico::kernels::cpu {

// Turns of the waiting loop before a thread sleeps: tens of microseconds, longer than the gaps
// between the ops of a decode step, shorter than a time slice. Measured: docs/adr/0002.
inline constexpr const char* kSpinCount = "2000";

// Call first in main, before threads exist or files are opened. If neither OMP_WAIT_POLICY nor
// GOMP_SPINCOUNT is set, sets GOMP_SPINCOUNT and executes this program again in this process, with
// the same arguments; otherwise, or if that fails (no /proc), returns: only speed is at stake.
void EnsureShortSpin(char** argv);

// Threads for that many multiply-adds: one below about twenty microseconds of work, near what it
// costs to wake another.
inline int UsefulThreads(int64_t products, int threads) {
  return products < (1 << 18) ? 1 : threads;
}

}  // namespace lexico::kernels::cpu

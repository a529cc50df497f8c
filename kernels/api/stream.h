// Where an op runs. On a CPU an op has finished when it returns; on a GPU it is enqueued.
//
// Thread-compatible: one thread uses a Stream at a time. Ops on the CPU split their work over
// `threads` OpenMP threads; results do not depend on how many.
#pragma once

namespace lexico::kernels {

enum class DeviceKind { kCpu, kCuda };

class Stream {
 public:
  // threads <= 0: as many as the machine has processors.
  static Stream Cpu(int threads = 0);

  DeviceKind kind() const { return kind_; }
  int threads() const { return threads_; }

  // Ends the helper threads that earlier ops of the calling thread left waiting for its next op. To
  // be called by a thread that has prepared a model and runs no more ops: the OpenMP runtime counts
  // its waiting threads, and as soon as all teams together have more than the machine has
  // processors, every one of them sleeps at once instead of spinning. Measured: a decode step of
  // the embedded model sleeps and wakes about sixty times, docs/adr/0002.
  void ReleaseThreads() const;

 private:
  Stream(DeviceKind kind, int threads) : kind_(kind), threads_(threads) {}
  DeviceKind kind_;
  int threads_;
};

}  // namespace lexico::kernels

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

 private:
  Stream(DeviceKind kind, int threads) : kind_(kind), threads_(threads) {}
  DeviceKind kind_;
  int threads_;
};

}  // namespace lexico::kernels

// A device with memory of its own, as api code sees it: the GPU behind a Stream. Implemented by
// kernels/cuda; a CPU stream has none.
//
// Thread-compatible, like the Stream that owns it. The GPU's failures are not returned: a call or a
// launch that fails ends the process with the call, the kernel and the driver's words
// (docs/ARCHITECTURE.md section 6), because after one the state of the device is unknown.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"

namespace lexico::kernels {

// Ops of a device, recorded to be enqueued again as one. Goes before its device does.
class Graph {
 public:
  virtual ~Graph() = default;
};

class Device;

// A moment in the order of a device's ops (event.h), of a device whose kind made it.
class DeviceEvent {
 public:
  virtual ~DeviceEvent() = default;
  virtual void Record(Device& device) = 0;
  virtual void HoldBack(Device& device) const = 0;
  virtual double MicrosecondsSince(const DeviceEvent& earlier) const = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  // "cuda:0 NVIDIA H100 80GB HBM3", for logs.
  virtual const std::string& name() const = 0;

  // Device memory of `bytes`, aligned to 256; null where that much is not free. For start-up only:
  // ops never allocate.
  virtual void* Allocate(size_t bytes) = 0;
  // What could be allocated now, of all processes that use the device.
  virtual size_t FreeBytes() const = 0;
  virtual void Free(void* data) = 0;

  // In the stream's order. `host` may be reused, or has been written, on return.
  virtual void CopyFromHost(void* device, const void* host, size_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, size_t bytes) = 0;

  // Host memory that the device reads and writes by itself ("pinned"), aligned to 256; null where
  // that much cannot be had. For start-up only (host_buffer.h).
  virtual void* AllocateHost(size_t bytes) = 0;
  virtual void FreeHost(void* data) = 0;

  // As above, but only enqueued: `host` is of AllocateHost, and must stay as it is until the copy
  // has happened, at the latest when Synchronize returns. Such copies can be recorded in a graph.
  virtual void UploadAsync(void* device, const void* host, size_t bytes) = 0;
  virtual void DownloadAsync(void* host, const void* device, size_t bytes) = 0;

  // Enqueued; both arrays are of this device. REQUIRES: they do not overlap.
  virtual void CopyWithin(void* to, const void* from, size_t bytes) = 0;
  virtual void Zero(void* to, size_t bytes) = 0;

  // Returns when all that was enqueued has finished.
  virtual void Synchronize() = 0;
  virtual std::unique_ptr<DeviceEvent> NewEvent() = 0;

  // As Stream::WaitFor.
  virtual void WaitFor(Device& other) = 0;

  // As Stream::Record and Replay.
  virtual std::unique_ptr<Graph> Record(absl::FunctionRef<void()> ops,
                                        std::unique_ptr<Graph> old) = 0;
  virtual void Replay(const Graph& graph) = 0;

  // For benchmarks: microseconds, on the device's own clock, of each of `n` replays of the ops that
  // `body` enqueues, recorded as one graph so that the time to enqueue them does not count.
  virtual std::vector<double> ReplayMicroseconds(const std::function<void()>& body, int n) = 0;
};

}  // namespace lexico::kernels

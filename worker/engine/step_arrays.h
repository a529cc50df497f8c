// The small arrays that a step needs where its ops run: ids, positions, page tables. They are
// written into host memory and sent in one copy; on a CPU they are used where they were written.
//
//   arrays.Begin(bytes)
//   ids = arrays.Add<int32_t>(n)      ids.host is filled, ids.device goes to the ops
//   ...
//   arrays.Upload()
//
// Thread-compatible. The arrays are valid until the next Begin, before which the stream must have
// been synchronised.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/host_buffer.h"
#include "kernels/api/stream.h"

namespace lexico::worker {

template <typename T>
struct StepArray {
  T* host = nullptr;
  T* device = nullptr;
};

class StepArrays {
 public:
  explicit StepArrays(const kernels::Stream& stream) : stream_(stream) {}

  // Room for the largest step, taken at start; a CPU's grows by itself.
  absl::Status Reserve(size_t bytes);

  // REQUIRES on a device: bytes were reserved.
  void Begin(size_t bytes);
  template <typename T>
  StepArray<T> Add(int64_t n) {
    const size_t offset = Take(BytesFor<T>(n));
    return {reinterpret_cast<T*>(host() + offset), reinterpret_cast<T*>(device() + offset)};
  }
  void Upload();

  template <typename T>
  static size_t BytesFor(int64_t n) {
    return (static_cast<size_t>(n) * sizeof(T) + 255) / 256 * 256;
  }

 private:
  char* host() const { return host_.as<char>(); }
  char* device() const { return on_host() ? host() : device_.as<char>(); }
  bool on_host() const { return stream_.kind() == kernels::DeviceKind::kCpu; }
  size_t Take(size_t bytes);

  kernels::Stream stream_;
  kernels::HostBuffer host_;
  kernels::DeviceBuffer device_;
  size_t taken_ = 0;
};

}  // namespace lexico::worker

// Memory where an op of a stream reads and writes: device memory of a GPU stream, plain memory
// aligned to 256 bytes of a CPU stream. For weights, pools and tests; ops allocate nothing.
//
// Thread-compatible. A buffer keeps its device alive.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"

namespace lexico::kernels {

class DeviceBuffer {
 public:
  // Contents are unspecified. ResourceExhausted where the device has not that much left; 0 bytes
  // give a buffer without memory.
  static absl::StatusOr<DeviceBuffer> Allocate(size_t bytes, const Stream& stream);

  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer() { Release(); }

  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

  // Copies at `offset_bytes` of the buffer, after the ops enqueued so far; done on return.
  // REQUIRES: offset_bytes + bytes <= bytes()
  void CopyFrom(const void* host, size_t bytes, size_t offset_bytes = 0);
  void CopyTo(void* host, size_t bytes, size_t offset_bytes = 0) const;

 private:
  void Release();

  std::shared_ptr<Device> device_;  // null: memory of the CPU
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace lexico::kernels

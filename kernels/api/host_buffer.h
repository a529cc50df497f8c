// Host memory from which a stream's device copies by itself: what a step uploads and downloads
// (Stream::UploadAsync, DownloadAsync). Pinned on a GPU stream, plain memory on a CPU stream,
// aligned to 256 bytes. Pinned memory is slow to take and is taken from everybody: for start-up.
//
// Thread-compatible. A buffer keeps its device alive.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"

namespace lexico::kernels {

class HostBuffer {
 public:
  // Contents are unspecified. ResourceExhausted where that much cannot be had; 0 bytes give a
  // buffer without memory.
  static absl::StatusOr<HostBuffer> Allocate(size_t bytes, const Stream& stream);

  HostBuffer() = default;
  HostBuffer(HostBuffer&& other) noexcept { *this = std::move(other); }
  HostBuffer& operator=(HostBuffer&& other) noexcept;
  // Waits for the copies in flight.
  ~HostBuffer() { Release(); }

  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void Release();

  std::shared_ptr<Device> device_;  // null: plain memory
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace lexico::kernels

// Working memory between ops, by the same code on both kinds of stream: a CPU's grows to the
// largest request seen and stays; a GPU's is reserved once at start, because nothing takes device
// memory afterwards, and a request beyond it ends the process.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/stream.h"

namespace lexico::kernels {

class GrowingBuffer {
 public:
  // At least `bytes` from here on; contents are lost. On both kinds of stream, for start-up.
  // ResourceExhausted as DeviceBuffer::Allocate; the buffer is then as before.
  absl::Status Reserve(size_t bytes, const Stream& stream);

  // Room for n elements, with the contents of the last call where that asked for no less,
  // unspecified otherwise. Valid until the next call. REQUIRES: on a GPU, n * sizeof(T) <= bytes().
  template <typename T>
  T* Get(int64_t n, const Stream& stream) {
    return static_cast<T*>(Bytes(static_cast<size_t>(n) * sizeof(T), stream));
  }

  size_t bytes() const { return buffer_.bytes(); }

 private:
  void* Bytes(size_t bytes, const Stream& stream);

  DeviceBuffer buffer_;
};

}  // namespace lexico::kernels

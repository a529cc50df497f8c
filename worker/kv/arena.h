// The memory of a pool on one rank, taken at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/stream.h"

namespace lexico::worker {

// Where ops of `stream` read and write. Memory of the host is page-aligned, and physical only once
// it is written. Thread-compatible.
class Arena {
 public:
  // ResourceExhausted when the system or the device refuses the memory.
  static absl::StatusOr<Arena> Take(size_t bytes, const kernels::Stream& stream);

  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;
  ~Arena();

  uint8_t* data() const { return data_; }

 private:
  Arena() = default;

  kernels::DeviceBuffer device_;  // empty on the host
  uint8_t* data_ = nullptr;
  size_t mapped_bytes_ = 0;  // of the host
};

}  // namespace lexico::worker

#include "kernels/api/growing_buffer.h"

#include <utility>

#include "proto/base/check.h"

namespace lexico::kernels {

absl::Status GrowingBuffer::Reserve(size_t bytes, const Stream& stream) {
  if (bytes <= buffer_.bytes()) return absl::OkStatus();
  absl::StatusOr<DeviceBuffer> grown = DeviceBuffer::Allocate(bytes, stream);
  if (!grown.ok()) return grown.status();
  buffer_ = *std::move(grown);
  return absl::OkStatus();
}

void* GrowingBuffer::Bytes(size_t bytes, const Stream& stream) {
  if (stream.kind() == DeviceKind::kCpu) {
    // As with std::vector, a CPU without memory ends the process.
    const absl::Status grown = Reserve(bytes, stream);
    LEXICO_CHECK(grown.ok());
  }
  LEXICO_CHECK_LE(bytes, buffer_.bytes());
  return buffer_.as<void>();
}

}  // namespace lexico::kernels

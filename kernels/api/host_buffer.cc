#include "kernels/api/host_buffer.h"

#include <fmt/format.h>

#include <new>
#include <utility>

namespace lexico::kernels {
namespace {

constexpr std::align_val_t kAlignment{256};

}  // namespace

absl::StatusOr<HostBuffer> HostBuffer::Allocate(size_t bytes, const Stream& stream) {
  HostBuffer buffer;
  if (bytes == 0) return buffer;
  buffer.device_ = stream.device();
  buffer.data_ = stream.device() != nullptr ? stream.device()->AllocateHost(bytes)
                                            : ::operator new(bytes, kAlignment, std::nothrow);
  if (buffer.data_ == nullptr) {
    return absl::ResourceExhaustedError(
        fmt::format("{} bytes of host memory cannot be had{}", bytes,
                    stream.device() != nullptr ? " that the GPU may copy from" : ""));
  }
  buffer.bytes_ = bytes;
  return buffer;
}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  if (this == &other) return *this;
  Release();
  device_ = std::move(other.device_);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

void HostBuffer::Release() {
  if (data_ == nullptr) return;
  if (device_ != nullptr) {
    device_->FreeHost(data_);
  } else {
    ::operator delete(data_, kAlignment);
  }
  data_ = nullptr;
}

}  // namespace lexico::kernels

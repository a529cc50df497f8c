#include "kernels/api/device_buffer.h"

#include <fmt/format.h>

#include <cstring>
#include <new>
#include <utility>

#include "proto/base/check.h"

namespace lexico::kernels {
namespace {

constexpr std::align_val_t kAlignment{256};

}  // namespace

absl::StatusOr<DeviceBuffer> DeviceBuffer::Allocate(size_t bytes, const Stream& stream) {
  DeviceBuffer buffer;
  if (bytes == 0) return buffer;
  buffer.device_ = stream.device();
  buffer.data_ = stream.device() != nullptr ? stream.device()->Allocate(bytes)
                                            : ::operator new(bytes, kAlignment, std::nothrow);
  if (buffer.data_ == nullptr) {
    return absl::ResourceExhaustedError(
        stream.device() == nullptr
            ? fmt::format("{} bytes do not fit into the memory left of the machine", bytes)
            : fmt::format("{} bytes do not fit into {}, which has {} bytes free", bytes,
                          stream.device()->name(), stream.device()->FreeBytes()));
  }
  buffer.bytes_ = bytes;
  return buffer;
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this == &other) return *this;
  Release();
  device_ = std::move(other.device_);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

void DeviceBuffer::Release() {
  if (data_ == nullptr) return;
  if (device_ != nullptr) {
    device_->Free(data_);
  } else {
    ::operator delete(data_, kAlignment);
  }
  data_ = nullptr;
}

void DeviceBuffer::CopyFrom(const void* host, size_t bytes, size_t offset_bytes) {
  LEXICO_CHECK_LE(offset_bytes + bytes, bytes_);
  if (bytes == 0) return;
  char* to = as<char>() + offset_bytes;
  if (device_ != nullptr) {
    device_->CopyFromHost(to, host, bytes);
  } else {
    std::memcpy(to, host, bytes);
  }
}

void DeviceBuffer::CopyTo(void* host, size_t bytes, size_t offset_bytes) const {
  LEXICO_CHECK_LE(offset_bytes + bytes, bytes_);
  if (bytes == 0) return;
  const char* from = as<char>() + offset_bytes;
  if (device_ != nullptr) {
    device_->CopyToHost(host, from, bytes);
  } else {
    std::memcpy(host, from, bytes);
  }
}

}  // namespace lexico::kernels

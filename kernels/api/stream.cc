#include "kernels/api/stream.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>

#include "proto/base/check.h"

namespace lexico::kernels {
namespace {

void CheckApart(const void* to, const void* from, size_t bytes) {
  const auto a = reinterpret_cast<uintptr_t>(to);
  const auto b = reinterpret_cast<uintptr_t>(from);
  LEXICO_CHECK_GE(std::max(a, b) - std::min(a, b), bytes);
}

}  // namespace

Stream Stream::Cpu(int threads) {
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return Stream(DeviceKind::kCpu, threads, nullptr);
}

void Stream::Upload(void* to, const void* host, size_t bytes) const {
  if (bytes == 0) return;
  if (device_ != nullptr) return device_->CopyFromHost(to, host, bytes);
  CheckApart(to, host, bytes);
  std::memcpy(to, host, bytes);
}

void Stream::Download(void* host, const void* from, size_t bytes) const {
  if (bytes == 0) return;
  if (device_ != nullptr) return device_->CopyToHost(host, from, bytes);
  CheckApart(host, from, bytes);
  std::memcpy(host, from, bytes);
}

void Stream::UploadAsync(void* to, const void* host, size_t bytes) const {
  if (bytes == 0) return;
  if (device_ != nullptr) return device_->UploadAsync(to, host, bytes);
  CheckApart(to, host, bytes);
  std::memcpy(to, host, bytes);
}

void Stream::DownloadAsync(void* host, const void* from, size_t bytes) const {
  if (bytes == 0) return;
  if (device_ != nullptr) return device_->DownloadAsync(host, from, bytes);
  CheckApart(host, from, bytes);
  std::memcpy(host, from, bytes);
}

void Stream::CopyWithin(void* to, const void* from, size_t bytes) const {
  if (bytes == 0) return;
  CheckApart(to, from, bytes);
  if (device_ != nullptr) return device_->CopyWithin(to, from, bytes);
  std::memcpy(to, from, bytes);
}

void Stream::Zero(void* to, size_t bytes) const {
  if (bytes == 0) return;
  if (device_ != nullptr) return device_->Zero(to, bytes);
  std::memset(to, 0, bytes);
}

}  // namespace lexico::kernels

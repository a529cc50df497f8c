#include "worker/kv/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "proto/base/options.h"

namespace lexico::worker {
namespace {

absl::Status Refused(size_t bytes, std::string_view why) {
  return absl::ResourceExhaustedError(
      fmt::format("cannot take {} of kv memory: {}; lower --kv_memory",
                  base::HumanBytes(static_cast<double>(bytes)), why));
}

}  // namespace

absl::StatusOr<Arena> Arena::Take(size_t bytes, const kernels::Stream& stream) {
  Arena arena;
  if (stream.kind() != kernels::DeviceKind::kCpu) {
    auto buffer = kernels::DeviceBuffer::Allocate(bytes, stream);
    if (!buffer.ok()) return Refused(bytes, std::string(buffer.status().message()));
    arena.device_ = *std::move(buffer);
    arena.data_ = arena.device_.as<uint8_t>();
    return arena;
  }
  void* const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return Refused(bytes, std::strerror(errno));
  arena.data_ = static_cast<uint8_t*>(mapped);
  arena.mapped_bytes_ = bytes;
  return arena;
}

Arena::Arena(Arena&& other) noexcept
    : device_(std::move(other.device_)),
      data_(std::exchange(other.data_, nullptr)),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)) {}

Arena::~Arena() {
  if (mapped_bytes_ > 0) munmap(data_, mapped_bytes_);
}

}  // namespace lexico::worker

#include "worker/engine/work_arena.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/options.h"
#include "proto/base/status.h"

namespace lexico::worker {

absl::StatusOr<std::unique_ptr<WorkArena>> WorkArena::Create(size_t bytes,
                                                             const kernels::Stream& stream) {
  std::unique_ptr<WorkArena> arena(new WorkArena(stream));
  if (stream.kind() == kernels::DeviceKind::kCpu) return arena;
  bytes = Piece::Rounded(bytes);
  auto memory = kernels::DeviceBuffer::Allocate(bytes, stream);
  if (!memory.ok()) {
    return base::Annotate(memory.status(), "memory for prompts, lower --prefill_memory");
  }
  arena->arena_ = *std::move(memory);
  arena->free_[0] = bytes;
  return arena;
}

size_t WorkArena::bytes_max() const {
  return stream_.kind() == kernels::DeviceKind::kCpu ? std::numeric_limits<size_t>::max()
                                                     : arena_.bytes();
}

bool WorkArena::Fits(size_t bytes) const {
  if (stream_.kind() == kernels::DeviceKind::kCpu) return true;
  return std::ranges::any_of(
      free_, [bytes](const auto& run) { return run.second >= Piece::Rounded(bytes); });
}

absl::StatusOr<WorkArena::Piece> WorkArena::Acquire(size_t bytes) {
  bytes = Piece::Rounded(bytes);
  Piece piece;
  piece.bytes_ = bytes;
  if (stream_.kind() == kernels::DeviceKind::kCpu) {
    LEXICO_ASSIGN_OR_RETURN(piece.buffer_, kernels::DeviceBuffer::Allocate(bytes, stream_));
    piece.data_ = piece.buffer_.as<uint8_t>();
    return piece;
  }
  size_t largest = 0;
  for (const auto& [offset, size] : free_) {
    largest = std::max(largest, size);
    if (size < bytes) continue;
    piece.arena_ = this;
    piece.data_ = arena_.as<uint8_t>() + offset;
    const auto rest = std::make_pair(offset + bytes, size - bytes);
    free_.erase(offset);
    if (rest.second > 0) free_.insert(rest);
    return piece;
  }
  return absl::ResourceExhaustedError(
      fmt::format("a prefill needs {} of working memory, the largest free run is {}",
                  base::HumanBytes(static_cast<double>(bytes)),
                  base::HumanBytes(static_cast<double>(largest))));
}

void WorkArena::Release(size_t offset, size_t bytes) {
  auto it = free_.emplace(offset, bytes).first;
  const auto next = std::next(it);
  if (next != free_.end() && it->first + it->second == next->first) {
    it->second += next->second;
    free_.erase(next);
  }
  if (it == free_.begin()) return;
  const auto before = std::prev(it);
  if (before->first + before->second != it->first) return;
  before->second += it->second;
  free_.erase(it);
}

WorkArena::Piece& WorkArena::Piece::operator=(Piece&& other) noexcept {
  if (this == &other) return *this;
  Release();
  arena_ = std::exchange(other.arena_, nullptr);
  buffer_ = std::move(other.buffer_);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  taken_ = std::exchange(other.taken_, 0);
  return *this;
}

void* WorkArena::Piece::TakeBytes(size_t bytes) {
  LEXICO_CHECK_LE(taken_ + Rounded(bytes), bytes_);
  uint8_t* array = data_ + taken_;
  taken_ += Rounded(bytes);
  return array;
}

void WorkArena::Piece::Release() {
  if (arena_ == nullptr) return;
  arena_->Release(static_cast<size_t>(data_ - arena_->arena_.as<uint8_t>()), bytes_);
  arena_ = nullptr;
}

}  // namespace lexico::worker

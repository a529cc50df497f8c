// Working memory of prefills, which lives as long as a call: hidden states of all its tokens, one
// layer's keys and values. On a device one arena is taken at start and handed out in pieces; on a
// CPU every piece is an allocation of its own.
//
// Thread-compatible: the engine's thread.
#pragma once

#include <cstddef>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/stream.h"

namespace lexico::worker {

class WorkArena {
 public:
  // Takes `bytes` on a device; on a CPU nothing, and the size is without limit. ResourceExhausted
  // as DeviceBuffer::Allocate.
  static absl::StatusOr<std::unique_ptr<WorkArena>> Create(size_t bytes,
                                                           const kernels::Stream& stream);

  // A piece of the arena, given back at its end. The arena must outlive it.
  class Piece {
   public:
    Piece() = default;
    Piece(Piece&& other) noexcept { *this = std::move(other); }
    Piece& operator=(Piece&& other) noexcept;
    ~Piece() { Release(); }

    // Cuts off the next n elements, aligned to 256 bytes. REQUIRES: they fit.
    template <typename T>
    T* Take(int64_t n) {
      return static_cast<T*>(TakeBytes(static_cast<size_t>(n) * sizeof(T)));
    }
    // What Take(n) of T needs.
    template <typename T>
    static size_t BytesFor(int64_t n) {
      return Rounded(static_cast<size_t>(n) * sizeof(T));
    }

   private:
    friend class WorkArena;
    static size_t Rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }
    void* TakeBytes(size_t bytes);
    void Release();

    WorkArena* arena_ = nullptr;    // of a device
    kernels::DeviceBuffer buffer_;  // of a CPU
    uint8_t* data_ = nullptr;
    size_t bytes_ = 0;
    size_t taken_ = 0;
  };

  // ResourceExhausted with the bytes wanted and the largest free run.
  absl::StatusOr<Piece> Acquire(size_t bytes);
  // Whether Acquire would give it now.
  bool Fits(size_t bytes) const;
  // The largest piece that can ever be had.
  size_t bytes_max() const;

 private:
  explicit WorkArena(const kernels::Stream& stream) : stream_(stream) {}
  void Release(size_t offset, size_t bytes);

  kernels::Stream stream_;
  kernels::DeviceBuffer arena_;
  std::map<size_t, size_t> free_;  // offset -> bytes; neighbours are joined
};

}  // namespace lexico::worker

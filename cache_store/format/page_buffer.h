// The bytes of one page in memory: header, then payload, 64-byte aligned. Filled once by whoever
// allocated it (a socket, a disk read), then shared read-only by tiers and replies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include "cache_store/format/page_key.h"
#include "proto/base/check.h"

namespace lexico::store {

class PageBuffer {
 public:
  static constexpr size_t kAlignment = 64;

  explicit PageBuffer(size_t size)
      : size_(size),
        data_(static_cast<uint8_t*>(std::aligned_alloc(
            kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment + (size == 0) * 64))) {
    LEXICO_CHECK(data_ != nullptr);
  }
  ~PageBuffer() { std::free(data_); }
  PageBuffer(const PageBuffer&) = delete;
  PageBuffer& operator=(const PageBuffer&) = delete;

  size_t size() const { return size_; }
  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  std::span<uint8_t> mutable_bytes() { return {data_, size_}; }

 private:
  size_t size_;
  uint8_t* data_;
};

using PagePtr = std::shared_ptr<const PageBuffer>;

// A page and its name, verified to belong together by whoever made it.
struct NamedPage {
  PageKey key;
  PagePtr page;
};

}  // namespace lexico::store

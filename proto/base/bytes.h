// Little-endian integers in byte buffers, and a bounded reader for bytes that may be hostile.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace lexico::base {

static_assert(std::endian::native == std::endian::little,
              "formats are little-endian and read by memcpy; port ByteReader first");

// Reads fields in order and never past the end: after a read that does not fit, ok() is false for
// good and every value is zero.
class ByteReader {
 public:
  explicit ByteReader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  template <typename T>
  T Read() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    if (!Take(sizeof(T))) return value;
    std::memcpy(&value, bytes_.data() + offset_ - sizeof(T), sizeof(T));
    return value;
  }
  // A view of the next `count` bytes; empty when fewer remain.
  std::span<const uint8_t> ReadBytes(size_t count) {
    if (!Take(count)) return {};
    return bytes_.subspan(offset_ - count, count);
  }
  // A u32 length, then that many bytes.
  std::string_view ReadString() {
    const auto view = ReadBytes(Read<uint32_t>());
    return {reinterpret_cast<const char*>(view.data()), view.size()};
  }
  bool ok() const { return ok_; }
  size_t offset() const { return offset_; }
  size_t remaining() const { return bytes_.size() - offset_; }

 private:
  bool Take(size_t count) {
    if (!ok_ || count > remaining()) {
      ok_ = false;
      return false;
    }
    offset_ += count;
    return true;
  }

  std::span<const uint8_t> bytes_;
  size_t offset_ = 0;
  bool ok_ = true;
};

// Appends fields to a string.
class ByteWriter {
 public:
  template <typename T>
  void Write(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    out_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void WriteBytes(std::span<const uint8_t> bytes) {
    out_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void WriteString(std::string_view text) {
    Write<uint32_t>(static_cast<uint32_t>(text.size()));
    out_.append(text);
  }
  size_t size() const { return out_.size(); }
  std::string& buffer() { return out_; }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

inline std::span<const uint8_t> AsBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace lexico::base

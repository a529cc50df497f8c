// Checksums (CRC32C, against accidents) and fingerprints (SHA-256, against confusion and malice).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace lexico::base {

// CRC-32C (Castagnoli) of `bytes`, continuing from `crc` (0 to begin). ISA-L, hardware-accelerated.
uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t crc = 0);

// The first 16 bytes of a SHA-256: enough that two different inputs never meet by chance, and short
// enough to name every page with one.
struct Fingerprint {
  std::array<uint8_t, 16> bytes{};

  auto operator<=>(const Fingerprint&) const = default;
  bool IsZero() const { return *this == Fingerprint{}; }
  // 32 lower-case hexadecimal digits.
  std::string ToHex() const;
  // The first 8 digits, for messages.
  std::string ShortHex() const { return ToHex().substr(0, 8); }

  template <typename H>
  friend H AbslHashValue(H h, const Fingerprint& f) {
    return H::combine(std::move(h), f.bytes);
  }
};

// SHA-256 over a sequence of updates. Each update is prefixed by its length, so that ("ab","c") and
// ("a","bc") differ. Thread-compatible.
class FingerprintBuilder {
 public:
  FingerprintBuilder();
  ~FingerprintBuilder();
  FingerprintBuilder(const FingerprintBuilder&) = delete;
  FingerprintBuilder& operator=(const FingerprintBuilder&) = delete;

  FingerprintBuilder& Add(std::span<const uint8_t> bytes);
  FingerprintBuilder& Add(std::string_view text);
  FingerprintBuilder& AddInt(uint64_t value);
  // May be called once; the builder is spent afterwards.
  Fingerprint Finish();

 private:
  void* context_;  // EVP_MD_CTX, owned
};

}  // namespace lexico::base

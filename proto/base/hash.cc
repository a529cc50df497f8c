#include "proto/base/hash.h"

#include <isa-l/crc.h>
#include <openssl/evp.h>

#include <cstring>

#include "proto/base/bytes.h"
#include "proto/base/check.h"

namespace lexico::base {

uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t crc) {
  // ISA-L takes int lengths and a non-const pointer it does not write through.
  uint32_t state = ~crc;
  while (!bytes.empty()) {
    const size_t part = std::min<size_t>(bytes.size(), size_t{1} << 30);
    state = crc32_iscsi(const_cast<uint8_t*>(bytes.data()), static_cast<int>(part), state);
    bytes = bytes.subspan(part);
  }
  return ~state;
}

std::string Fingerprint::ToHex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const uint8_t byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

FingerprintBuilder::FingerprintBuilder() : context_(EVP_MD_CTX_new()) {
  // Looked up once: EVP_sha256() is at every use, which takes longer than the hash of a page's key.
  static EVP_MD* const sha256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  LEXICO_CHECK(sha256 != nullptr);
  LEXICO_CHECK(context_ != nullptr);
  LEXICO_CHECK_EQ(EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_), sha256, nullptr), 1);
}

FingerprintBuilder::~FingerprintBuilder() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_)); }

FingerprintBuilder& FingerprintBuilder::Add(std::span<const uint8_t> bytes) {
  auto* context = static_cast<EVP_MD_CTX*>(context_);
  const uint64_t size = bytes.size();
  LEXICO_CHECK_EQ(EVP_DigestUpdate(context, &size, sizeof(size)), 1);
  LEXICO_CHECK_EQ(EVP_DigestUpdate(context, bytes.data(), bytes.size()), 1);
  return *this;
}

FingerprintBuilder& FingerprintBuilder::Add(std::string_view text) { return Add(AsBytes(text)); }

FingerprintBuilder& FingerprintBuilder::AddInt(uint64_t value) {
  return Add(std::span(reinterpret_cast<const uint8_t*>(&value), sizeof(value)));
}

Fingerprint FingerprintBuilder::Finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  LEXICO_CHECK_EQ(EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_), digest, &size), 1);
  Fingerprint fingerprint;
  std::memcpy(fingerprint.bytes.data(), digest, fingerprint.bytes.size());
  return fingerprint;
}

}  // namespace lexico::base

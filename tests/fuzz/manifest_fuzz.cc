// Any bytes as a manifest: no crash, bounded memory, and what is accepted is written again as the
// same bytes.
#include <cstring>

#include "cache_store/format/manifest.h"
#include "proto/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto manifest = lexico::store::DecodeManifest({data, size});
  if (!manifest.ok()) return 0;
  const auto bytes = lexico::store::EncodeManifest(*manifest);
  LEXICO_CHECK(bytes.ok());
  LEXICO_CHECK_EQ(bytes->size(), size);
  LEXICO_CHECK_EQ(std::memcmp(bytes->data(), data, size), 0);
  return 0;
}

// As in page_fuzz.cc: length and checksum are repaired.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  using lexico::base::Crc32c;
  size = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 4 == 0 || size < lexico::store::kManifestHeaderBytes) return size;
  const std::span<uint8_t> bytes(data, size);
  std::memcpy(data, "LXMF\1\0\x20\0", 8);
  const uint64_t total_bytes = size;
  std::memcpy(data + 8, &total_bytes, 8);
  std::memset(data + 20, 0, 12);
  const uint32_t crc = Crc32c(bytes.subspan(20), Crc32c(bytes.first(16)));
  std::memcpy(data + 16, &crc, 4);
  return size;
}

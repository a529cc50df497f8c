// Any bytes as a page: no crash, and what is accepted is written again as the same bytes.
#include <algorithm>
#include <cstring>

#include "cache_store/format/page.h"
#include "proto/base/check.h"
#include "proto/base/hash.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto view = lexico::store::DecodePage({data, size});
  if (!view.ok()) return 0;
  const auto header = lexico::store::EncodeHeader(view->header, view->payload);
  LEXICO_CHECK(std::equal(header.begin(), header.end(), data));
  return 0;
}

// Most mutations only break a checksum; repairing both lets the fuzzer reach what lies behind them.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  using lexico::base::Crc32c;
  using lexico::store::kPageHeaderBytes;
  size = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 4 == 0 || size < kPageHeaderBytes) return size;
  const std::span<uint8_t> bytes(data, size);
  std::memcpy(data, "LXPG\1\0\x80\0", 8);
  const auto payload_bytes = static_cast<uint32_t>(size - kPageHeaderBytes);
  std::memcpy(data + 8, &payload_bytes, 4);
  const uint32_t payload_crc = Crc32c(bytes.subspan(kPageHeaderBytes));
  std::memcpy(data + 16, &payload_crc, 4);
  const uint32_t header_crc =
      Crc32c(bytes.subspan(16, kPageHeaderBytes - 16), Crc32c(bytes.first(12)));
  std::memcpy(data + 12, &header_crc, 4);
  return size;
}

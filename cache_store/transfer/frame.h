// Frames of the bulk plane as bytes. docs/formats/bulk.md is the specification.
//
// Pure functions; any thread. Errors: InvalidArgument, naming the field and both values; the
// receiver closes the connection.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache_store/format/page_key.h"

namespace lexico::store {

inline constexpr uint16_t kBulkVersion = 1;  // on the wire; never reuse a value
inline constexpr size_t kFrameHeaderBytes = 40;
inline constexpr size_t kFrameTableBytesMax = 32u << 10;
inline constexpr size_t kBulkErrorBytesMax = 1024;

// Values are on the wire: do not change them.
enum class FrameType : uint8_t {
  kHello = 1,
  kHelloReply = 2,
  kPut = 3,
  kPutReply = 4,
  kGet = 5,
  kGetReply = 6,
};

struct FrameHeader {
  uint16_t version = kBulkVersion;
  FrameType type = FrameType::kHello;
  uint64_t batch_id = 0;
  uint32_t n_items = 0;
  uint32_t table_bytes = 0;
  uint64_t data_bytes = 0;
};

// Header and table, ready to be sent before the data. table_bytes is taken from `table`.
std::string EncodeFrame(FrameHeader header, std::string_view table);

// Everything but the checksum, which needs the table. `bytes` is kFrameHeaderBytes long.
absl::StatusOr<FrameHeader> DecodeFrameHeader(std::span<const uint8_t> bytes);
absl::Status CheckFrame(std::span<const uint8_t> header, std::span<const uint8_t> table);

struct PutItem {
  PageKey key;
  uint32_t page_bytes = 0;
};
std::string EncodePutTable(std::span<const PutItem> items);
// Also checks that every length can be a page's and that they add up to data_bytes.
absl::StatusOr<std::vector<PutItem>> DecodePutTable(const FrameHeader& header,
                                                    std::span<const uint8_t> table);

std::string EncodeGetTable(std::span<const PageKey> keys);
absl::StatusOr<std::vector<PageKey>> DecodeGetTable(const FrameHeader& header,
                                                    std::span<const uint8_t> table);

struct GetReplyItem {
  absl::StatusCode code = absl::StatusCode::kOk;
  uint32_t bytes = 0;  // of the page, or of the error text
};
std::string EncodeGetReplyTable(std::span<const GetReplyItem> items);
// Also checks that the lengths add up to data_bytes.
absl::StatusOr<std::vector<GetReplyItem>> DecodeGetReplyTable(const FrameHeader& header,
                                                              std::span<const uint8_t> table);

// PUT_REPLY. The status decoded is what the store answered, InvalidArgument for a malformed table.
std::string EncodePutReplyTable(const absl::Status& status);
absl::Status DecodePutReplyTable(std::span<const uint8_t> table);

std::string EncodeHelloTable(uint16_t version_min, uint16_t version_max);
std::string EncodeHelloReplyTable(const absl::Status& status, uint16_t version);
// The version to speak, or why there is none.
absl::StatusOr<uint16_t> ChooseVersion(std::span<const uint8_t> hello_table);
absl::Status DecodeHelloReplyTable(std::span<const uint8_t> table);

}  // namespace lexico::store

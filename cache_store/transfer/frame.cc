#include "cache_store/transfer/frame.h"

#include <fmt/format.h>

#include <cstring>

#include "cache_store/format/page.h"
#include "proto/base/bytes.h"
#include "proto/base/check.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

constexpr char kMagic[4] = {'L', 'X', 'B', 'K'};
constexpr size_t kCrcOffset = 32;
constexpr size_t kPageBytesMax = kPageHeaderBytes + base::kPagePayloadBytesMax;

uint32_t FrameCrc(std::span<const uint8_t> header, std::span<const uint8_t> table) {
  return base::Crc32c(table, base::Crc32c(header.first(kCrcOffset)));
}

absl::Status CheckRange(const char* field, uint64_t value, uint64_t min, uint64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("bulk frame: {} is {}, allowed are {} to {}", field, value, min, max));
}

absl::Status CheckTableBytes(const FrameHeader& header, size_t item_bytes) {
  const uint64_t wanted = uint64_t{header.n_items} * item_bytes;
  return CheckRange("table_bytes", header.table_bytes, wanted, wanted);
}

absl::StatusCode ReadCode(base::ByteReader& in) {
  const auto code = in.Read<uint32_t>();
  // A code that gRPC does not have is an error of unknown kind.
  return code <= 16 ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown;
}

// Never cuts a UTF-8 character in two: our messages are ASCII but for names of files.
std::string_view Cut(std::string_view text) {
  size_t size = std::min(text.size(), kBulkErrorBytesMax);
  while (size > 0 && size < text.size() && (text[size] & 0xc0) == 0x80) --size;
  return text.substr(0, size);
}

}  // namespace

std::string EncodeFrame(FrameHeader header, std::string_view table) {
  LEXICO_CHECK_LE(table.size(), kFrameTableBytesMax);
  base::ByteWriter out;
  out.WriteBytes(base::AsBytes({kMagic, 4}));
  out.Write(header.version);
  out.Write(header.type);
  out.Write<uint8_t>(0);
  out.Write(header.batch_id);
  out.Write(header.n_items);
  out.Write(static_cast<uint32_t>(table.size()));
  out.Write(header.data_bytes);
  out.Write(FrameCrc(base::AsBytes(out.buffer()), base::AsBytes(table)));
  out.Write<uint32_t>(0);
  out.WriteBytes(base::AsBytes(table));
  return out.Take();
}

absl::StatusOr<FrameHeader> DecodeFrameHeader(std::span<const uint8_t> bytes) {
  LEXICO_CHECK_EQ(bytes.size(), kFrameHeaderBytes);
  base::ByteReader in(bytes);
  if (std::memcmp(in.ReadBytes(4).data(), kMagic, 4) != 0) {
    return absl::InvalidArgumentError("bulk frame does not begin with LXBK");
  }
  FrameHeader header;
  header.version = in.Read<uint16_t>();
  const auto type = in.Read<uint8_t>();
  const auto reserved = in.Read<uint8_t>();
  header.batch_id = in.Read<uint64_t>();
  header.n_items = in.Read<uint32_t>();
  header.table_bytes = in.Read<uint32_t>();
  header.data_bytes = in.Read<uint64_t>();
  LEXICO_RETURN_IF_ERROR(CheckRange("type", type, 1, 6));
  header.type = static_cast<FrameType>(type);
  // Versions are agreed on in HELLO; there only the table says which.
  if (header.type != FrameType::kHello && header.type != FrameType::kHelloReply) {
    LEXICO_RETURN_IF_ERROR(CheckRange("version", header.version, kBulkVersion, kBulkVersion));
  }
  LEXICO_RETURN_IF_ERROR(CheckRange("reserved byte", reserved, 0, 0));
  LEXICO_RETURN_IF_ERROR(CheckRange("n_items", header.n_items, 0, base::kBulkBatchPagesMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("table_bytes", header.table_bytes, 0, kFrameTableBytesMax));
  const bool has_data = header.type == FrameType::kPut || header.type == FrameType::kGetReply;
  LEXICO_RETURN_IF_ERROR(
      CheckRange("data_bytes", header.data_bytes, 0, has_data ? base::kBulkFrameBytesMax : 0));
  in.Read<uint32_t>();
  LEXICO_RETURN_IF_ERROR(CheckRange("reserved field", in.Read<uint32_t>(), 0, 0));
  return header;
}

absl::Status CheckFrame(std::span<const uint8_t> header, std::span<const uint8_t> table) {
  uint32_t stored = 0;
  std::memcpy(&stored, header.data() + kCrcOffset, sizeof(stored));
  const uint32_t crc = FrameCrc(header, table);
  if (crc == stored) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("bulk frame: crc32c is {:08x}, sent {:08x}", crc, stored));
}

std::string EncodePutTable(std::span<const PutItem> items) {
  base::ByteWriter out;
  for (const PutItem& item : items) {
    out.WriteBytes(item.key.bytes);
    out.Write(item.page_bytes);
  }
  return out.Take();
}

absl::StatusOr<std::vector<PutItem>> DecodePutTable(const FrameHeader& header,
                                                    std::span<const uint8_t> table) {
  LEXICO_RETURN_IF_ERROR(CheckTableBytes(header, 20));
  base::ByteReader in(table);
  std::vector<PutItem> items(header.n_items);
  uint64_t total = 0;
  for (PutItem& item : items) {
    item.key = in.Read<PageKey>();
    item.page_bytes = in.Read<uint32_t>();
    LEXICO_RETURN_IF_ERROR(
        CheckRange("bytes of a page", item.page_bytes, kPageHeaderBytes + 1, kPageBytesMax));
    total += item.page_bytes;
  }
  LEXICO_RETURN_IF_ERROR(CheckRange("data_bytes", header.data_bytes, total, total));
  return items;
}

std::string EncodeGetTable(std::span<const PageKey> keys) {
  base::ByteWriter out;
  for (const PageKey& key : keys) out.WriteBytes(key.bytes);
  return out.Take();
}

absl::StatusOr<std::vector<PageKey>> DecodeGetTable(const FrameHeader& header,
                                                    std::span<const uint8_t> table) {
  LEXICO_RETURN_IF_ERROR(CheckTableBytes(header, sizeof(PageKey)));
  base::ByteReader in(table);
  std::vector<PageKey> keys(header.n_items);
  for (PageKey& key : keys) key = in.Read<PageKey>();
  return keys;
}

std::string EncodeGetReplyTable(std::span<const GetReplyItem> items) {
  base::ByteWriter out;
  for (const GetReplyItem& item : items) {
    out.Write(static_cast<uint32_t>(item.code));
    out.Write(item.bytes);
  }
  return out.Take();
}

absl::StatusOr<std::vector<GetReplyItem>> DecodeGetReplyTable(const FrameHeader& header,
                                                              std::span<const uint8_t> table) {
  LEXICO_RETURN_IF_ERROR(CheckTableBytes(header, 8));
  base::ByteReader in(table);
  std::vector<GetReplyItem> items(header.n_items);
  uint64_t total = 0;
  for (GetReplyItem& item : items) {
    item.code = ReadCode(in);
    item.bytes = in.Read<uint32_t>();
    const bool is_page = item.code == absl::StatusCode::kOk;
    LEXICO_RETURN_IF_ERROR(CheckRange("bytes of an item", item.bytes,
                                      is_page ? kPageHeaderBytes : 0,
                                      is_page ? kPageBytesMax : kBulkErrorBytesMax));
    total += item.bytes;
  }
  LEXICO_RETURN_IF_ERROR(CheckRange("data_bytes", header.data_bytes, total, total));
  return items;
}

std::string EncodePutReplyTable(const absl::Status& status) {
  base::ByteWriter out;
  out.Write(static_cast<uint32_t>(status.code()));
  out.WriteString(Cut({status.message().data(), status.message().size()}));
  return out.Take();
}

absl::Status DecodePutReplyTable(std::span<const uint8_t> table) {
  base::ByteReader in(table);
  const absl::StatusCode code = ReadCode(in);
  const std::string message(in.ReadString());
  if (!in.ok() || in.remaining() != 0) {
    return absl::InvalidArgumentError(
        fmt::format("bulk frame: a PUT_REPLY table of {} bytes is malformed", table.size()));
  }
  return absl::Status(code, message);
}

std::string EncodeHelloTable(uint16_t version_min, uint16_t version_max) {
  base::ByteWriter out;
  out.Write(version_min);
  out.Write(version_max);
  return out.Take();
}

absl::StatusOr<uint16_t> ChooseVersion(std::span<const uint8_t> hello_table) {
  base::ByteReader in(hello_table);
  const auto version_min = in.Read<uint16_t>();
  const auto version_max = in.Read<uint16_t>();
  if (!in.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("bulk frame: a HELLO table has {} bytes, 4 are needed", hello_table.size()));
  }
  if (version_min <= kBulkVersion && kBulkVersion <= version_max) return kBulkVersion;
  return absl::FailedPreconditionError(
      fmt::format("bulk plane: the client speaks versions {} to "
                  "{}, the store {}",
                  version_min, version_max, kBulkVersion));
}

std::string EncodeHelloReplyTable(const absl::Status& status, uint16_t version) {
  base::ByteWriter out;
  out.Write(static_cast<uint32_t>(status.code()));
  out.Write(version);
  out.WriteString(Cut({status.message().data(), status.message().size()}));
  return out.Take();
}

absl::Status DecodeHelloReplyTable(std::span<const uint8_t> table) {
  base::ByteReader in(table);
  const absl::StatusCode code = ReadCode(in);
  const auto version = in.Read<uint16_t>();
  const std::string message(in.ReadString());
  if (!in.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("bulk frame: a HELLO_REPLY table of {} bytes is malformed", table.size()));
  }
  if (code != absl::StatusCode::kOk) return absl::Status(code, message);
  return CheckRange("version of the store", version, kBulkVersion, kBulkVersion);
}

}  // namespace lexico::store

#include "coordinator/state/journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "proto/base/bytes.h"
#include "proto/base/check.h"
#include "proto/base/hash.h"
#include "proto/base/status.h"

namespace lexico::coord {
namespace {

constexpr uint32_t kMagic = 0x4C4A584C;  // "LXJL"
constexpr char kRemedy[] =
    "restore the file from a backup, or move it away to start without the sessions it names (their "
    "pages stay in the store)";

uint32_t Crc(std::string_view bytes) { return base::Crc32c(base::AsBytes(bytes)); }

absl::Status Damaged(const std::string& file, size_t offset, const std::string& what) {
  return absl::DataLossError(
      fmt::format("journal {} is damaged at byte {}: {}; {}", file, offset, what, kRemedy));
}

bool AllZero(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == 0; });
}

struct Header {
  uint64_t base_revision;
  uint32_t n_snapshot;
};

absl::StatusOr<Header> ParseHeader(std::string_view bytes, const std::string& file) {
  // The file is renamed into place after its header and snapshot are on disk: it is never torn
  // here.
  if (bytes.size() < kJournalHeaderBytes) {
    return Damaged(file, 0,
                   fmt::format("{} bytes, a header has {}", bytes.size(), kJournalHeaderBytes));
  }
  base::ByteReader in(base::AsBytes(bytes));
  const auto magic = in.Read<uint32_t>();
  const auto version = in.Read<uint16_t>();
  in.Read<uint16_t>();
  const auto base_revision = in.Read<uint64_t>();
  const auto n_snapshot = in.Read<uint32_t>();
  const auto stored = in.Read<uint32_t>();
  const uint32_t computed = Crc(bytes.substr(0, kJournalHeaderBytes - sizeof(uint32_t)));
  if (magic != kMagic) {
    return Damaged(file, 0, fmt::format("it begins with {:08x}, not {:08x}", magic, kMagic));
  }
  if (stored != computed) {
    return Damaged(file, 0,
                   fmt::format("the header's crc32c is {:08x}, it says {:08x}", computed, stored));
  }
  if (version != kJournalVersion) {
    return absl::FailedPreconditionError(
        fmt::format("journal {} has version {}, this program reads version {}; use the program "
                    "that wrote it",
                    file, version, kJournalVersion));
  }
  return Header{base_revision, n_snapshot};
}

// The body of the record at `offset`; nullopt when the rest of the file is a torn write.
absl::StatusOr<std::optional<std::string_view>> ReadBody(std::string_view bytes, size_t offset,
                                                         const std::string& file) {
  const std::string_view rest = bytes.substr(offset);
  if (rest.size() < kRecordHeadBytes || AllZero(rest)) return std::nullopt;
  base::ByteReader in(base::AsBytes(rest));
  const auto body_bytes = in.Read<uint32_t>();
  const auto body_crc = in.Read<uint32_t>();
  const auto head_crc = in.Read<uint32_t>();
  const uint32_t computed_head = Crc(rest.substr(0, kRecordHeadBytes - sizeof(uint32_t)));
  if (head_crc != computed_head) {
    // A record ends with a mark that is not zero, so zeros up to the end of the file were never
    // written: the head was cut in two by a hole.
    if (rest.back() == 0 && AllZero(rest.substr(kRecordHeadBytes))) return std::nullopt;
    return Damaged(file, offset,
                   fmt::format("the record's head has crc32c {:08x}, it says {:08x}", computed_head,
                               head_crc));
  }
  if (body_bytes > kRecordBodyBytesMax) {
    return Damaged(
        file, offset,
        fmt::format("a record of {} bytes, at most {}", body_bytes, kRecordBodyBytesMax));
  }
  if (rest.size() < kRecordHeadBytes + body_bytes + 1) return std::nullopt;
  const std::string_view body = rest.substr(kRecordHeadBytes, body_bytes);
  const char end = rest[kRecordHeadBytes + body_bytes];
  const uint32_t computed = Crc(body);
  const bool is_last = rest.size() == kRecordHeadBytes + body_bytes + 1;
  if (is_last && end == 0 && computed != body_crc) return std::nullopt;  // a hole, not a record
  if (computed != body_crc || static_cast<uint8_t>(end) != kRecordEnd) {
    return Damaged(file, offset,
                   fmt::format("the record's body has crc32c {:08x}, it says {:08x}, and ends with "
                               "{:02x} instead of {:02x}",
                               computed, body_crc, static_cast<uint8_t>(end), kRecordEnd));
  }
  return body;
}

// Applies one record to the entries.
absl::Status Apply(std::string_view body, size_t offset, const std::string& file, bool is_snapshot,
                   uint64_t base_revision, JournalContents* contents) {
  base::ByteReader in(base::AsBytes(body));
  const auto kind = in.Read<uint8_t>();
  const auto revision = in.Read<uint64_t>();
  const std::string key(in.ReadString());
  const std::string value(in.ReadString());
  if (!in.ok() || in.remaining() != 0) {
    return Damaged(file, offset, fmt::format("a body of {} bytes does not parse", body.size()));
  }
  const uint64_t wanted = contents->revision + 1;
  if (is_snapshot ? revision > base_revision : revision != wanted) {
    return Damaged(
        file, offset,
        fmt::format("the record has revision {}, expected {}{}", revision,
                    is_snapshot ? "at most " : "", is_snapshot ? base_revision : wanted));
  }
  if (!is_snapshot) contents->revision = revision;
  if (kind == static_cast<uint8_t>(RecordKind::kPut)) {
    contents->entries[key] = {key, value, revision};
  } else if (kind == static_cast<uint8_t>(RecordKind::kDelete) && !is_snapshot) {
    contents->entries.erase(key);
  } else {
    return Damaged(file, offset, fmt::format("a record of kind {}", kind));
  }
  return absl::OkStatus();
}

}  // namespace

std::string EncodeJournalHeader(uint64_t base_revision, uint32_t n_snapshot) {
  base::ByteWriter out;
  out.Write<uint32_t>(kMagic);
  out.Write<uint16_t>(kJournalVersion);
  out.Write<uint16_t>(0);
  out.Write<uint64_t>(base_revision);
  out.Write<uint32_t>(n_snapshot);
  out.Write<uint32_t>(Crc(out.buffer()));
  LEXICO_CHECK_EQ(out.size(), kJournalHeaderBytes);
  return out.Take();
}

std::string EncodeRecord(RecordKind kind, uint64_t revision, std::string_view key,
                         std::string_view value) {
  base::ByteWriter body;
  body.Write<uint8_t>(static_cast<uint8_t>(kind));
  body.Write<uint64_t>(revision);
  body.WriteString(key);
  body.WriteString(value);
  base::ByteWriter out;
  out.Write<uint32_t>(static_cast<uint32_t>(body.size()));
  out.Write<uint32_t>(Crc(body.buffer()));
  out.Write<uint32_t>(Crc(out.buffer()));
  out.buffer() += body.buffer();
  out.Write<uint8_t>(kRecordEnd);
  return out.Take();
}

absl::StatusOr<JournalContents> ParseJournal(std::string_view bytes, const std::string& file) {
  LEXICO_ASSIGN_OR_RETURN(const Header header, ParseHeader(bytes, file));
  JournalContents contents;
  contents.revision = header.base_revision;
  size_t offset = kJournalHeaderBytes;
  uint32_t n_read = 0;
  while (offset < bytes.size()) {
    LEXICO_ASSIGN_OR_RETURN(const auto body, ReadBody(bytes, offset, file));
    if (!body.has_value()) break;
    LEXICO_RETURN_IF_ERROR(
        Apply(*body, offset, file, n_read < header.n_snapshot, header.base_revision, &contents));
    offset += kRecordHeadBytes + body->size() + 1;
    if (++n_read == header.n_snapshot) contents.snapshot_bytes = offset;
  }
  if (n_read < header.n_snapshot) {
    return Damaged(
        file, offset,
        fmt::format("the snapshot ends after {} of {} records", n_read, header.n_snapshot));
  }
  if (header.n_snapshot == 0) contents.snapshot_bytes = kJournalHeaderBytes;
  contents.valid_bytes = offset;
  contents.torn_bytes = bytes.size() - offset;
  return contents;
}

}  // namespace lexico::coord

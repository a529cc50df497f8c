// The bytes of the coordinator's journal. docs/formats/journal.md is the specification; this header
// is its transcription. Change the page first, then this file, then kJournalVersion.
//
//   file    = header snapshot-record* log-record*
//   header  = magic "LXJL" | u16 version | u16 0 | u64 base_revision | u32 n_snapshot | u32 crc32c
//   record  = u32 body_bytes | u32 body_crc32c | u32 head_crc32c | body | end mark 0xA5
//   body    = u8 kind | u64 revision | key | value      (key, value: u32 length, bytes)
//
// All integers little-endian. Snapshot records are puts with revisions up to base_revision; log
// records have base_revision + 1, + 2, ... without gaps, so that a lost or swapped record shows.
//
// Not here: files, locking, what the values mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/state/cluster_state.h"

namespace lexico::coord {

inline constexpr uint16_t kJournalVersion = 1;  // On disk. Never reuse a value.
inline constexpr size_t kJournalHeaderBytes = 24;
inline constexpr size_t kRecordHeadBytes = 12;
inline constexpr uint8_t kRecordEnd = 0xA5;  // not zero: a hole of zeros is told from a record
// Two names of 256 bytes, a system prompt of 1 MiB and change; more is damage.
inline constexpr size_t kRecordBodyBytesMax = 4u << 20;

enum class RecordKind : uint8_t {
  // On disk: do not change the values.
  kPut = 1,
  kDelete = 2,
};

std::string EncodeJournalHeader(uint64_t base_revision, uint32_t n_snapshot);
std::string EncodeRecord(RecordKind kind, uint64_t revision, std::string_view key,
                         std::string_view value);

struct JournalContents {
  std::map<std::string, StateEntry, std::less<>> entries;
  uint64_t revision = 0;      // of the last record
  size_t valid_bytes = 0;     // up to here the journal is sound ...
  size_t torn_bytes = 0;      // ... and this much after it is the start of an interrupted write
  size_t snapshot_bytes = 0;  // header and snapshot records
};

// Reads a whole journal. A write that was interrupted by a crash leaves an incomplete last record,
// or one whose end reads as zeros: it was never acknowledged and is left out (torn_bytes). Anything
// else that is not as written is DataLoss, with `file`, the offset, both checksums and the remedy;
// a newer version is FailedPrecondition.
absl::StatusOr<JournalContents> ParseJournal(std::string_view bytes, const std::string& file);

}  // namespace lexico::coord

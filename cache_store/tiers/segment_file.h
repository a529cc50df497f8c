// One append-only file of pages. docs/formats/segment.md is the specification.
//
// Thread safety: Read may be called from any thread at any time; Append, Sync and Truncate from one
// thread at a time. The file stays readable through this object after it was deleted.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cache_store/format/page_buffer.h"
#include "cache_store/format/page_key.h"
#include "proto/base/fault.h"

namespace lexico::store {

// Where a page lies.
struct Location {
  uint64_t segment_id = 0;
  uint64_t offset = 0;
  uint32_t bytes = 0;  // of the page, without padding

  bool operator==(const Location&) const = default;
};

inline constexpr size_t kSegmentHeaderBytes = 64;
// Bytes that a page of `bytes` takes in a segment.
constexpr uint64_t RecordBytes(uint64_t bytes) { return (bytes + 63) / 64 * 64; }

struct SegmentRecord {
  PageKey key;
  Location location;
};

struct SegmentScan {
  std::vector<SegmentRecord> records;  // valid ones, in order
  uint64_t end = 0;                    // after the last valid record
  uint64_t n_damaged = 0;              // places inside `end` where a record should have begun
};

class SegmentFile {
 public:
  // A new file with its header, durable in its folder. `faults` may be null and must outlive it.
  static absl::StatusOr<std::shared_ptr<SegmentFile>> Create(const std::string& dir, uint64_t id,
                                                             base::FaultInjector* faults);
  // DataLoss when the header is damaged or names another segment.
  static absl::StatusOr<std::shared_ptr<SegmentFile>> Open(const std::string& dir, uint64_t id,
                                                           base::FaultInjector* faults);
  ~SegmentFile();

  // Writes all pages behind the end; sets `locations` in their order. Not durable before Sync.
  // ResourceExhausted when the disk is full, Unavailable on other errors; the caller truncates.
  absl::Status Append(std::span<const NamedPage> pages, std::vector<Location>* locations);
  absl::Status Sync();
  // Cuts the file to `size`, where the next Append begins.
  absl::Status Truncate(uint64_t size);
  // Unavailable when the disk fails, DataLoss when the file ends before.
  absl::Status Read(uint64_t offset, std::span<uint8_t> bytes) const;
  // Verifies every record from the beginning. Unavailable when the disk fails.
  absl::StatusOr<SegmentScan> Scan() const;
  absl::Status Delete();

  uint64_t id() const { return id_; }
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  SegmentFile(std::string path, uint64_t id, int fd, uint64_t size, base::FaultInjector* faults)
      : path_(std::move(path)), id_(id), fd_(fd), size_(size), faults_(faults) {}
  absl::Status Hit(const char* point) {
    return faults_ == nullptr ? absl::OkStatus() : faults_->Hit(point);
  }

  const std::string path_;
  const uint64_t id_;
  const int fd_;
  uint64_t size_;
  base::FaultInjector* const faults_;
};

// The id that the header at the beginning of `bytes` names. DataLoss: there is none, or it is
// damaged; FailedPrecondition: of another version.
absl::StatusOr<uint64_t> DecodeSegmentHeader(std::span<const uint8_t> bytes);

// Ids of the segment files in `dir`, ascending.
absl::StatusOr<std::vector<uint64_t>> ListSegments(const std::string& dir);

// Makes creations and deletions in `dir` durable.
absl::Status SyncDirectory(const std::string& dir);

// "no space left" becomes ResourceExhausted, anything else Unavailable.
absl::Status ErrnoStatus(int error, const std::string& what);

}  // namespace lexico::store

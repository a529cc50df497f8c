// Where manifests are kept: in the index of a disk tier, or in memory in a store without a disk.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace lexico::store {

struct ManifestRecord {
  uint64_t epoch = 0;
  int64_t update_time_us = 0;  // since 1970
  std::string bytes;           // docs/formats/manifest.md
};

// Of a deleted session: what arrives late of it is refused. tombstones.h says by which rule.
struct Tombstone {
  int64_t create_time_us = 0;  // its birth, since 1970; 0: not known
  uint64_t epoch = 0;          // at which it was deleted, where the birth is not known; else 0
  int64_t delete_time_us = 0;  // since 1970, of this store's clock
  bool operator==(const Tombstone&) const = default;
};

class ManifestTable {
 public:
  virtual ~ManifestTable() = default;
  // OK: as durable as the table is. Replaces.
  virtual absl::Status Put(const std::string& session_id, const ManifestRecord& record) = 0;
  // NotFound; DataLoss when the record is damaged.
  virtual absl::StatusOr<ManifestRecord> Get(const std::string& session_id) const = 0;
  // Puts the tombstone in its place, both or neither. OK when there is no manifest.
  virtual absl::Status Delete(const std::string& session_id, const Tombstone& tombstone) = 0;
  // In the order of session ids. Calls no other method of the table from `visit`.
  virtual absl::Status ForEach(
      const std::function<void(const std::string&, const ManifestRecord&)>& visit) const = 0;
  virtual absl::Status ForEachTombstone(
      const std::function<void(const std::string&, const Tombstone&)>& visit) const = 0;
  // Not durable at once: one that comes back after a power failure refuses what it refused before.
  virtual absl::Status DropTombstones(const std::vector<std::string>& session_ids) = 0;
};

class MemoryManifestTable : public ManifestTable {
 public:
  absl::Status Put(const std::string& session_id, const ManifestRecord& record) override;
  absl::StatusOr<ManifestRecord> Get(const std::string& session_id) const override;
  absl::Status Delete(const std::string& session_id, const Tombstone& tombstone) override;
  absl::Status ForEach(
      const std::function<void(const std::string&, const ManifestRecord&)>& visit) const override;
  // Kept by the caller only, as long as the process lives.
  absl::Status ForEachTombstone(
      const std::function<void(const std::string&, const Tombstone&)>&) const override {
    return absl::OkStatus();
  }
  absl::Status DropTombstones(const std::vector<std::string>&) override { return absl::OkStatus(); }

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, ManifestRecord> records_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::store

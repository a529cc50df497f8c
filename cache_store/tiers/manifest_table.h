// Where manifests are kept: in the index of a disk tier, or in memory in a store without a disk.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

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

class ManifestTable {
 public:
  virtual ~ManifestTable() = default;
  // OK: as durable as the table is. Replaces.
  virtual absl::Status Put(const std::string& session_id, const ManifestRecord& record) = 0;
  // NotFound; DataLoss when the record is damaged.
  virtual absl::StatusOr<ManifestRecord> Get(const std::string& session_id) const = 0;
  // OK when there is none.
  virtual absl::Status Delete(const std::string& session_id) = 0;
  // In the order of session ids. Calls no other method of the table from `visit`.
  virtual absl::Status ForEach(
      const std::function<void(const std::string&, const ManifestRecord&)>& visit) const = 0;
};

class MemoryManifestTable : public ManifestTable {
 public:
  absl::Status Put(const std::string& session_id, const ManifestRecord& record) override;
  absl::StatusOr<ManifestRecord> Get(const std::string& session_id) const override;
  absl::Status Delete(const std::string& session_id) override;
  absl::Status ForEach(
      const std::function<void(const std::string&, const ManifestRecord&)>& visit) const override;

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, ManifestRecord> records_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::store

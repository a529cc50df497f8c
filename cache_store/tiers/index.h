// The index of a data directory: where pages are, which segments are sealed, and manifests, in
// RocksDB. docs/formats/segment.md has its keys; docs/adr/0005-store-engine.md says why RocksDB.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_store/format/page_key.h"
#include "cache_store/tiers/manifest_table.h"
#include "cache_store/tiers/segment_file.h"
#include "proto/base/fault.h"

namespace rocksdb {
class DB;
class WriteBatch;
}  // namespace rocksdb

namespace lexico::store {

// What changes together.
struct IndexChange {
  std::vector<SegmentRecord> added;
  std::vector<PageKey> removed;
  std::vector<std::pair<uint64_t, uint64_t>> sealed_segments;  // id, length
  std::vector<uint64_t> deleted_segments;

  bool empty() const {
    return added.empty() && removed.empty() && sealed_segments.empty() && deleted_segments.empty();
  }
};

// Adds to a DataLoss what an operator can do about the index in `dir`; leaves other statuses alone.
absl::Status WithIndexRemedy(const absl::Status& status, const std::string& dir);

class Index : public ManifestTable {
 public:
  // Creates it where there is none. DataLoss when it is damaged: the message names the folder and
  // what can be done. FailedPrecondition: of another version.
  static absl::StatusOr<std::unique_ptr<Index>> Open(const std::string& dir,
                                                     base::FaultInjector* faults);
  ~Index() override;

  absl::Status ForEachPage(const std::function<void(const SegmentRecord&)>& visit) const;
  absl::StatusOr<std::map<uint64_t, uint64_t>> SealedSegments() const;

  // All or nothing. With sync, this and every earlier change survives a power failure.
  // ResourceExhausted when the disk is full, Unavailable on other errors.
  absl::Status Apply(const IndexChange& change, bool sync);

  // Manifests and tombstones are always written with sync.
  absl::Status Put(const std::string& session_id, const ManifestRecord& record) override;
  absl::StatusOr<ManifestRecord> Get(const std::string& session_id) const override;
  absl::Status Delete(const std::string& session_id, const Tombstone& tombstone) override;
  absl::Status ForEach(
      const std::function<void(const std::string&, const ManifestRecord&)>& visit) const override;
  absl::Status ForEachTombstone(
      const std::function<void(const std::string&, const Tombstone&)>& visit) const override;
  absl::Status DropTombstones(const std::vector<std::string>& session_ids) override;

 private:
  Index(std::unique_ptr<rocksdb::DB> db, base::FaultInjector* faults);
  absl::Status Write(rocksdb::WriteBatch* batch, bool sync);

  const std::unique_ptr<rocksdb::DB> db_;
  base::FaultInjector* const faults_;
};

}  // namespace lexico::store

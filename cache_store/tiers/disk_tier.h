// Pages on disk: append-only segment files, with an index in RocksDB that also keeps the manifests.
// docs/formats/segment.md says what lies where, in which order it is written and what a restart
// does; docs/adr/0005-store-engine.md says why it is so.
//
// What Put acknowledged survives the death of the process and a power failure. Calls that arrive
// while a batch is being written are written together, with one fdatasync.
//
// Fault points: disk.write (a part of a batch is written), disk.sync, disk.truncate, disk.index,
// disk.space (the file system has no room).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "cache_store/tiers/index.h"
#include "cache_store/tiers/scrub.h"
#include "cache_store/tiers/segment_table.h"
#include "cache_store/tiers/tier.h"
#include "proto/base/fault.h"

namespace lexico::store {

struct DiskTierOptions {
  std::string dir;                // created where absent
  uint64_t bytes_max = 4u << 30;  // of all segment files; three quarters of it may be live pages
  // A segment is sealed at this size. 0: 1/32 of bytes_max, between 1 MiB (a reclaim step must be
  // worth its fsync) and 256 MiB (what a restart reads).
  uint64_t segment_bytes = 0;
  // Of the file system, kept free for the index.
  uint64_t reserve_bytes = 64u << 20;
  bool rebuild_index = false;             // index_rebuild.h
  base::FaultInjector* faults = nullptr;  // may be null; must outlive the tier
};

class DiskTier : public Tier {
 public:
  // Recovers what is there. FailedPrecondition: another process serves the folder, or its format is
  // newer. DataLoss: the index is damaged or missing; the message says how to rebuild it.
  // Unavailable: the folder cannot be made, read or written.
  static absl::StatusOr<std::unique_ptr<DiskTier>> Open(const DiskTierOptions& options,
                                                        absl::Time now);
  ~DiskTier() override;

  std::string_view name() const override { return "disk"; }
  absl::Status Put(std::span<const NamedPage> pages, absl::Time now) override;
  absl::StatusOr<PagePtr> Get(const PageKey& key, absl::Time now) override;
  bool Touch(const PageKey& key, absl::Time now) override;
  void SetClaimed(const PageKey& key, bool claimed, absl::Time now) override;
  TierUsage usage() const override;

  // Verifies pages as they lie on the disk, in the order of segments, until `bytes_max` are read or
  // a segment ends, and moves `cursor` on. Damaged ones are dropped. Unavailable: the disk fails;
  // the cursor stays. Beside all other calls; one thread a cursor.
  absl::StatusOr<ScrubStep> Scrub(ScrubCursor* cursor, uint64_t bytes_max);

  ManifestTable& manifests() { return *index_; }
  // Bytes of all segment files, dead ones included.
  uint64_t file_bytes() const;

 private:
  struct Batch {
    std::span<const NamedPage> pages;
    absl::Time now;
    bool done = false;
    absl::Status status;
  };

  explicit DiskTier(const DiskTierOptions& options);
  absl::Status Lock();
  absl::Status Recover(absl::Time now);
  absl::Status RecoverSegment(uint64_t id, std::optional<uint64_t> sealed_length,
                              std::vector<SegmentRecord> indexed, absl::Time now,
                              IndexChange* change);

  // Called by one thread at a time: the one whose batch is first in the queue.
  void CommitGroup(std::span<Batch* const> group);
  absl::Status CommitPages(std::span<const NamedPage> pages, absl::Time now);
  absl::Status AppendDurably(std::span<const NamedPage> pages, std::vector<Location>* locations);
  absl::Status Roll();
  void SealActive(uint64_t length);
  absl::Status MakeRoom(uint64_t bytes, absl::Time now);
  absl::Status Evict(uint64_t bytes, absl::Time now);
  absl::Status Reclaim(uint64_t id);
  absl::Status MovePages(std::span<const SegmentRecord> records);
  void DeleteDeadSegments();
  absl::Status CheckFreeSpace(uint64_t bytes);

  static absl::Status VerifyOnDisk(const SegmentRecord& record, const SegmentFile& file);

  // A damaged page leaves the tier; returns the error for the reader.
  absl::Status DropDamaged(const PageKey& key, const Location& location, const SegmentFile& file,
                           const absl::Status& why);

  // Constant after construction.
  const DiskTierOptions options_;
  const std::string segments_dir_;
  const uint64_t segment_bytes_;
  const uint64_t live_bytes_max_;
  const uint64_t file_bytes_max_;
  int lock_fd_ = -1;
  std::unique_ptr<Index> index_;

  // Of the committing thread.
  std::shared_ptr<SegmentFile> active_;

  absl::Mutex queue_mutex_;
  std::deque<Batch*> queue_ ABSL_GUARDED_BY(queue_mutex_);

  mutable absl::Mutex mutex_;
  SegmentTable table_ ABSL_GUARDED_BY(mutex_);
  uint64_t n_evictions_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t n_checksum_failures_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace lexico::store

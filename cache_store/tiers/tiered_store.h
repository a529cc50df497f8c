// The tiers of one store together with its manifests: what the server serves.
//
// Pages are written through: Put returns when the last tier has them. Get looks in host memory,
// then on disk, and keeps in memory what it found on disk. Pages that a manifest names are never
// evicted from the last tier; see eviction_order.h for all others.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "cache_store/tiers/claims.h"
#include "cache_store/tiers/disk_tier.h"
#include "cache_store/tiers/host_tier.h"
#include "cache_store/tiers/tombstones.h"
#include "proto/base/clock.h"
#include "proto/base/fault.h"
#include "proto/base/metrics.h"

namespace lexico::store {

struct TieredStoreOptions {
  uint64_t host_bytes = 1u << 30;
  std::string data_dir;  // empty: host memory only, nothing survives a restart
  uint64_t disk_bytes = 16ull << 30;
  uint64_t segment_bytes = 0;                // of DiskTierOptions
  uint64_t reserve_bytes = 64u << 20;        // of DiskTierOptions
  bool rebuild_index = false;                // of DiskTierOptions
  base::FaultInjector* faults = nullptr;     // may be null; must outlive the store
  base::Clock* clock = base::Clock::Real();  // must outlive the store
};

struct StoreUsage {
  struct NamedTier {
    std::string_view name;
    TierUsage usage;
  };
  std::vector<NamedTier> tiers;  // fastest first
  uint64_t n_manifests = 0;
  uint64_t n_checksum_failures = 0;
  int64_t scrub_time_us = 0;  // since 1970: when the last whole scrub ended; 0: none since start
};

struct ManifestSummary {
  std::string session_id;
  std::string tenant;
  uint64_t epoch = 0;
  int64_t create_time_us = 0;  // since 1970; 0: the manifest cannot be read
  uint64_t n_tokens = 0;
  uint64_t n_pages = 0;
  int64_t update_time_us = 0;  // since 1970
  // A sample of its pages is in memory: it would be read from there. Always so without a disk.
  bool in_host_memory = false;
};

class TieredStore {
 public:
  // Errors as DiskTier::Open. `metrics` must outlive the store.
  static absl::StatusOr<std::unique_ptr<TieredStore>> Open(const TieredStoreOptions& options,
                                                           base::Metrics* metrics);

  // Pages must have been verified. OK: the last tier has all of them. ResourceExhausted: no room,
  // and none of them is acknowledged.
  absl::Status Put(std::span<const NamedPage> pages);
  // One answer per key: NotFound, DataLoss (damaged and dropped), Unavailable (the disk fails).
  std::vector<absl::StatusOr<PagePtr>> Get(std::span<const PageKey> keys);
  // Whether each page is there; each gets a new lease.
  std::vector<bool> Touch(std::span<const PageKey> keys);

  // The manifest of the session born last wins, then that of the larger epoch. Aborted: the stored
  // one wins. OK without a change when it is the same owner's and has more tokens: logs only grow,
  // so this one was overtaken. NotFound: that session was deleted (tombstones.h). InvalidArgument:
  // `bytes` is no manifest of that session and epoch.
  absl::Status PutManifest(const std::string& session_id, uint64_t epoch, std::string bytes);
  absl::StatusOr<ManifestRecord> GetManifest(const std::string& session_id) const;
  // Deletes the session of that birth and what earlier ones of its id left; 0: whichever is stored.
  // Aborted: it is stored at a larger epoch. OK without a change when a later session has the id,
  // whose manifest replaced it.
  absl::Status DeleteManifest(const std::string& session_id, uint64_t epoch,
                              int64_t create_time_us);
  // At most `n_max` of them, by session id, the first after `start_after`.
  std::vector<ManifestSummary> ListManifests(const std::string& start_after, size_t n_max) const;

  // DiskTier::Scrub; of a damaged page that memory still has, the disk gets a new copy.
  // FailedPrecondition without a disk: pages in memory are verified by those who read them.
  absl::StatusOr<ScrubStep> Scrub(ScrubCursor* cursor, uint64_t bytes_max);

  StoreUsage usage() const;

 private:
  TieredStore(const TieredStoreOptions& options, base::Metrics* metrics)
      : clock_(options.clock), metrics_(metrics) {}
  absl::Status LoadManifests();
  absl::StatusOr<PagePtr> GetOne(const PageKey& key, absl::Time now, bool* from_disk);
  // False: of the same owner and older than the stored one. Aborted as PutManifest.
  absl::StatusOr<bool> Replaces(const Manifest& next) const;
  absl::Status CheckNotDeleted(const Manifest& next) const;
  // Together with one that is there already, and with the manifest's end. The store's own clock
  // says when.
  absl::Status WriteTombstone(const std::string& session_id, Tombstone tombstone);
  absl::Status CheckEpoch(const std::string& session_id, uint64_t epoch) const;
  void Carry(const ClaimChange& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(claims_mutex_);
  void UpdateMetrics();
  bool Repair(const PageKey& key);
  absl::Mutex& SessionMutex(const std::string& session_id) const;
  Tier& last_tier() const;

  base::Clock* const clock_;
  base::Metrics* const metrics_;
  std::unique_ptr<HostTier> host_;
  std::unique_ptr<DiskTier> disk_;  // null without a data_dir
  std::unique_ptr<MemoryManifestTable> memory_manifests_;
  ManifestTable* manifests_ = nullptr;  // of disk_, or memory_manifests_

  // Two writers of one session take turns; sessions do not wait for each other's fsync.
  mutable std::array<absl::Mutex, 64> session_mutexes_;
  mutable absl::Mutex claims_mutex_;
  Claims claims_ ABSL_GUARDED_BY(claims_mutex_);
  Tombstones tombstones_ ABSL_GUARDED_BY(claims_mutex_);
  std::atomic<int64_t> scrub_time_us_ = 0;
  absl::Mutex metrics_mutex_;
  std::vector<TierUsage> exported_ ABSL_GUARDED_BY(metrics_mutex_);
};

}  // namespace lexico::store

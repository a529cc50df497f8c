// The cluster state of one machine: in memory, and in a journal on local disk when it has a folder.
//
// Every write is appended to <folder>/journal before it is visible. A durable write returns after
// fdatasync; writes that arrive while one is under way share the next (group commit). When the log
// part outgrows the snapshot, the state is written anew as a snapshot to journal.new, synced and
// renamed over the journal: a crash at any moment leaves one whole file.
//
// The folder is locked (flock on <folder>/lock), because two writers would destroy each other's
// work. After a failed sync no further write is taken until a restart: the kernel may have dropped
// what it could not write, and saying so twice would be a lie the second time.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/journal.h"
#include "proto/base/fault.h"

namespace lexico::coord {

struct LocalStateOptions {
  // Folder of the journal, made if missing. Empty: in memory only, gone with the process.
  std::string folder;
  // The log part may take this much more than twice the snapshot before it is compacted: small
  // enough to read in well under a second, large enough to make compaction rare.
  size_t compact_slack_bytes = 4u << 20;
  // Fault points: "journal.write", "journal.sync". Not owned, may be null, outlives the state.
  base::FaultInjector* faults = nullptr;
};

class LocalState : public ClusterState {
 public:
  // DataLoss for a damaged journal (journal.h); FailedPrecondition with the process id when another
  // process uses the folder; PermissionDenied, NotFound and so on when it cannot be used.
  static absl::StatusOr<std::unique_ptr<LocalState>> Open(const LocalStateOptions& options);
  ~LocalState() override;

  absl::StatusOr<std::vector<StateEntry>> List(std::string_view prefix) override;
  absl::StatusOr<uint64_t> Put(std::string_view key, std::string_view value,
                               uint64_t expected_revision, Durability durability) override;
  absl::Status Delete(std::string_view key, uint64_t expected_revision) override;
  uint64_t Revision() override;
  uint64_t SizeBytes() override;

  // Bytes of an interrupted last write that Open cut off; 0 after an orderly end.
  size_t torn_bytes() const { return torn_bytes_; }

 private:
  explicit LocalState(const LocalStateOptions& options) : options_(options) {}
  absl::Status LockFolder();
  absl::Status LoadJournal();

  absl::Status CheckRevision(std::string_view key, uint64_t expected_revision)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Append(const std::string& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits until every revision so far is on disk. Releases the mutex meanwhile.
  absl::Status Sync() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Replaces the journal by a snapshot of the entries.
  absl::Status Compact() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CompactIfDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string JournalPath() const { return options_.folder + "/journal"; }

  const LocalStateOptions options_;
  int lock_fd_ = -1;
  size_t torn_bytes_ = 0;

  absl::Mutex mutex_;
  std::map<std::string, StateEntry, std::less<>> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t revision_ ABSL_GUARDED_BY(mutex_) = 0;
  int fd_ ABSL_GUARDED_BY(mutex_) = -1;
  size_t file_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t snapshot_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t synced_revision_ ABSL_GUARDED_BY(mutex_) = 0;
  bool is_syncing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);  // sticky
};

}  // namespace lexico::coord

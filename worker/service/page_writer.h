// Writes sealed pages to the store behind the answers, on a thread of its own.
//
// The queue holds references to pages, so it is bounded in bytes: when the store is slow or down
// for long, the oldest pages leave the queue and their session is marked for a sync, which later
// finds out what the store lacks. Nothing ever waits for this class except the end of the process.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cache_store/client/client.h"
#include "proto/base/metrics.h"
#include "worker/kv/snapshot.h"

namespace lexico::worker {

// Puts pages in batches; headers are made here, off the engine's thread.
absl::Status PutPages(store::Client& client, std::span<const PageExport* const> pages,
                      absl::Time deadline);

class PageWriter {
 public:
  // Brings the store up to date with one session: pages it lacks, then the manifest.
  // FailedPrecondition while the session is busy (it is tried again); NotFound and Aborted end it.
  using Sync = std::function<absl::Status(const std::string& session_id)>;

  // `client` and `metrics` must outlive this object. Pages are accepted at once.
  PageWriter(store::Client* client, base::Metrics* metrics, size_t queue_bytes_max);
  ~PageWriter();  // Stop

  // Starts the thread.
  void Start(Sync sync);
  // Ends the thread after its current call; queued pages are dropped. Idempotent.
  void Stop();

  // Never blocks on the store.
  void Push(const std::string& session_id, std::vector<PageExport> pages);
  // The session is synced at `when` or later.
  void SyncLater(const std::string& session_id, absl::Time when);

  // Pages in the queue or on the way.
  int64_t pages_behind() const;

 private:
  struct Entry {
    std::string session_id;
    PageExport page;
  };

  void Run();
  // One batch of the queue. False: the store did not take it.
  bool WriteBatch();
  // Due syncs. False: the store could not be reached.
  bool RunSyncs();
  void Report() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  store::Client* const client_;
  const size_t queue_bytes_max_;
  prometheus::Gauge& behind_gauge_;
  Sync sync_;
  std::thread thread_;

  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  bool is_stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Entry> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queue_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t n_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, absl::Time> syncs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::worker

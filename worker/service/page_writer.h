// Writes sealed pages to the store behind the answers, on a thread of its own.
//
// The queue holds references to pages, so it is bounded in bytes: when the store is slow or down
// for long, the oldest pages leave the queue and their session is marked for a sync, which later
// finds out what the store lacks. So are pages that the store refuses: their session's, and no
// other's. Nothing ever waits for this class except the end of the process.
//
// Every failure is tried again, with back-off: the queue while the store is out of reach or full;
// a sync of its own session's while the store refuses it. Neither holds up the other.
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
  // "session_busy": a call uses the session, it is tried again soon. NotFound and Aborted end it:
  // the session is another worker's business now, or nobody's.
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

  // Sealed pages that the store has not acknowledged: in the queue, on the way, or left to a sync.
  int64_t pages_behind() const;

 private:
  struct Entry {
    std::string session_id;
    PageExport page;
  };
  // Of one session, to be synced.
  struct Late {
    absl::Time when;
    absl::Duration backoff;  // after the next refusal
    int64_t n_pages = 0;     // that left the queue unacknowledged
    bool is_reported = false;
  };
  // Grows with every failure until the next success.
  struct Pause {
    absl::Time until = absl::InfinitePast();
    absl::Duration next = absl::ZeroDuration();
    void Grow();
    void End() { *this = {}; }
  };

  void Run();
  // Until there is something to do. False: to end.
  bool WaitForWork();
  // One batch of the queue, if there is one and it is time.
  void WriteBatch();
  std::vector<Entry> TakeBatch();
  absl::Status Put(const std::vector<Entry>& entries);
  // Each session's pages of a refused batch by themselves. Pages that have to be tried again stay
  // in `batch`. OK, or why they have to.
  absl::Status PutApart(std::vector<Entry>* batch);
  // The sync that has been due for longest, if there is one and it is time.
  void RunSync();
  void Reschedule(const std::string& session_id, Late late, const absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveToSync(const std::string& session_id, int64_t n_pages)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Late& LateOf(const std::string& session_id, absl::Time when)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t Behind() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
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
  int64_t n_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;  // taken from the queue by WriteBatch
  Pause queue_pause_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Late> late_ ABSL_GUARDED_BY(mutex_);  // by session
  int64_t n_late_pages_ ABSL_GUARDED_BY(mutex_) = 0;          // of late_ and of the sync that runs
  Pause sync_pause_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::worker

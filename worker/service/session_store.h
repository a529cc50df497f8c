// Sessions of this worker in the store: what is written when, and how they come back.
//
//   behind the answers   sealed pages (PageWriter)
//   Commit               the token log of a finished call, before its client hears that it finished
//   Offload              everything that the store lacks, windows too
//   Restore              manifest, then pages straight into the pool; what is missing or damaged is
//                        left pending, and the next call prefills it from the token log
//
// Errors of the store come out as Unavailable "store_unavailable", so that a coordinator can tell
// them from a worker that is gone.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_store/client/client.h"
#include "proto/base/metrics.h"
#include "worker/engine/engine.h"
#include "worker/service/page_writer.h"
#include "worker/service/session_table.h"

namespace lexico::worker {

class SessionStore {
 public:
  // All must outlive this object. Starts `writer`.
  SessionStore(store::Client* client, PageWriter* writer, Engine* engine, SessionTable* table,
               std::string model_name, base::Metrics* metrics);
  ~SessionStore();  // stops the writer

  // Puts the token log of a session that the caller uses. OK also when the store cannot take it
  // now: it is put later, and n_durable_tokens lags until then. Aborted "epoch_stale": another
  // owner has the session. Waits for two seconds at most, and for a store that hung the last time
  // not at all, until it has answered the writer.
  absl::Status Commit(const SessionRecord& record);
  // Puts the token log and fails where Commit puts it off: Unavailable "store_unavailable". The
  // fence of a new owner: when it is OK, no former owner can write the session any more.
  absl::Status CommitNow(SessionRecord* record, absl::Time deadline);
  // As Commit, but later and behind: after a cancelled call, so that a coordinator which believes
  // the call lost can take the session up as it was before.
  void CommitLater(const std::string& session_id);

  // Writes everything and waits. The session stays here; the caller drops it.
  absl::Status Offload(const SessionRecord& record, absl::Time deadline);

  struct Restored {
    SessionRecord record;
    int64_t n_lost_tokens = 0;  // pending, to be prefilled again
  };
  // The session into the engine, at `epoch`. Unavailable "store_unavailable": nothing of it is here
  // and it is in the store as before. NotFound: the store has none of that id, or only what an
  // earlier session of that id left. DataLoss: its manifest is damaged. FailedPrecondition: of
  // another model or dictionary.
  absl::StatusOr<Restored> Restore(const SessionIdentity& identity, uint64_t epoch,
                                   absl::Time deadline);

  // Of the session's manifest; 0: the store has none.
  absl::StatusOr<uint64_t> StoredEpoch(const SessionIdentity& identity, absl::Time deadline);

  absl::Status DeleteStored(const std::string& session_id, uint64_t epoch, absl::Time deadline);

  int64_t pages_behind() const { return writer_->pages_behind(); }

 private:
  absl::Status PutMissing(const SessionSnapshot& snapshot, absl::Time deadline);
  absl::Status PutWindows(const SessionSnapshot& snapshot, absl::Time deadline);
  absl::Status PutManifest(const SessionRecord& record, store::Manifest manifest,
                           absl::Time deadline);
  absl::Status Sync(const std::string& session_id);
  // "session_busy": a call uses the session, or has since `record` was taken.
  absl::Status CheckUnused(const SessionRecord& record);
  // Says when the store becomes unreachable and when it is back, once each.
  void Note(const absl::Status& status);

  store::Client* const client_;
  PageWriter* const writer_;
  Engine* const engine_;
  SessionTable* const table_;
  const std::string model_name_;
  base::Metrics* const metrics_;
  std::atomic<bool> is_reachable_ = true;
  std::atomic<bool> is_hung_ = false;  // the last call that it took was not answered in time
};

}  // namespace lexico::worker

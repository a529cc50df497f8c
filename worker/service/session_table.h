// The sessions this worker holds, as the service knows them: epoch, conversation, durability. Their
// tokens and pages are the engine's.
//
// One call at a time uses a session; looking at it is always possible. Epochs fence: a call that
// names another epoch is Aborted "epoch_stale", whoever is behind.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/service/conversation.h"

namespace lexico::worker {

// Which session is meant. An id alone does not say: a coordinator that lost its journal gives the
// same ids again, to other tenants too.
struct SessionIdentity {
  std::string session_id;
  std::string tenant;
  std::optional<absl::Time> create_time;  // whole microseconds; nullopt: any

  // Whether a session of this id is the one.
  bool Is(const std::string& its_tenant, absl::Time its_create_time) const {
    return tenant == its_tenant && create_time.value_or(its_create_time) == its_create_time;
  }
};

struct SessionRecord {
  // Constant after creation.
  std::string session_id;
  uint64_t epoch = 0;
  std::string tenant;
  std::string profile;
  std::string parent_session_id;
  absl::Time create_time;  // whole microseconds

  Conversation conversation;
  absl::Time last_use_time;
  int64_t n_durable_tokens = 0;  // whose text the store has acknowledged
  // The newest call ended with its answer complete, so that the session is as its client believes.
  bool is_settled = true;
  // Of the call that runs; shared with the engine's callbacks.
  std::shared_ptr<std::atomic<double>> prefill_fraction =
      std::make_shared<std::atomic<double>>(0.0);
};

class SessionTable {
 public:
  // Exclusive use of a session, given back at the end of its life.
  class Use {
   public:
    Use(Use&& other) noexcept : table_(other.table_), serial_(other.serial_) {
      record = std::move(other.record);
      other.table_ = nullptr;
    }
    Use& operator=(Use&&) = delete;
    ~Use();

    // The record as it was taken; changes count after Save.
    SessionRecord record;
    // False when the session was dropped or fenced meanwhile; nothing is changed then.
    bool Save();

   private:
    friend class SessionTable;
    Use(SessionTable* table, uint64_t serial, SessionRecord r)
        : record(std::move(r)), table_(table), serial_(serial) {}
    SessionTable* table_;
    uint64_t serial_;
  };

  // AlreadyExists. The session is in use by the caller.
  absl::StatusOr<Use> Add(SessionRecord record);

  // NotFound "session_unknown"; Aborted "epoch_stale" with both epochs; FailedPrecondition
  // "session_busy".
  absl::StatusOr<Use> Acquire(const std::string& session_id, uint64_t epoch);

  // Looking, also at a session in use. NotFound; Aborted unless the epochs are equal.
  absl::StatusOr<SessionRecord> Get(const std::string& session_id, uint64_t epoch) const;
  // Whatever its epoch. NotFound.
  absl::StatusOr<SessionRecord> Find(const std::string& session_id) const;
  std::vector<SessionRecord> List() const;
  bool IsInUse(const std::string& session_id) const;

  // Forgets a session held at `epoch_max` or a smaller epoch, also one in use. False: there was
  // none. The caller drops it from the engine.
  bool Drop(const std::string& session_id, uint64_t epoch_max);

  // Tokens that the store has acknowledged for this epoch.
  void SetDurable(const std::string& session_id, uint64_t epoch, int64_t n_tokens);

 private:
  struct Entry {
    SessionRecord record;
    uint64_t serial = 0;  // tells an entry from a later one of the same id
    bool in_use = false;
  };

  const Entry* FindAt(const std::string& session_id, uint64_t epoch, absl::Status* error) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  uint64_t next_serial_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::worker

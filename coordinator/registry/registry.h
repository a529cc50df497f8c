// Who holds which session, at which epoch.
//
// A state machine without clock, threads or messages: events and the time come in, and what must be
// told to others (sessions to revoke, sessions whose record changed) goes out as values. The
// service, the property tests and the simulator run the same code.
//
// Fencing. Every change of owner gives the session a larger epoch, and a worker that reports a
// smaller one is told to drop the session (`revoked`), unless nobody has it (kRecovering): then
// that copy may be the newest there is. Hence, tested in registry_property_test.cc:
//   R1  for each (session, epoch) there is at most one owner, ever
//   R2  a session's epoch never falls
//   R3  a lost worker owns no resident session
//   R4  n_sessions of a worker is the number of resident sessions it owns
//   R5  a worker is kDrained exactly when it drains and owns no resident session
// A larger epoch than ours owns a session from the journal, which may be a backup's; of one that
// this process created it is another session's, and is revoked.
// A worker that was lost and comes back still holding a session at its current epoch is its owner
// again: nobody else had that epoch.
//
// Thread-compatible.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/registry/types.h"

namespace lexico::coord {

struct Registration {
  std::string worker_id;
  std::string address;
  std::string lease_id;  // chosen by the caller, unique
  WorkerModel model;
  WorkerLoad load;
  std::vector<HeldSession> sessions;
};

struct Reconciled {
  std::vector<HeldSession> revoked;  // to tell the worker: drop these at these epochs or smaller
  std::vector<std::string> changed;  // sessions whose placement or epoch changed
};

struct Expired {
  std::vector<std::string> workers;  // lost just now
  std::vector<std::string> changed;  // sessions that became kRecovering
};

class Registry {
 public:
  explicit Registry(absl::Duration lease) : lease_(lease) {}

  absl::Duration lease() const { return lease_; }

  // -- Workers --------------------------------------------------------------------------------

  // A new worker, or one that registers again (it restarted, or we did). Sessions it owned and does
  // not list become kRecovering. FailedPrecondition when a live worker of that id has another
  // address: two processes were started with one id. The same address means the old process is
  // gone, because the port was free.
  absl::StatusOr<Reconciled> Register(const Registration& registration, absl::Time now);

  // FailedPrecondition when the lease is not the worker's current one. A session that is not listed
  // is left alone: its opening may be under way.
  absl::StatusOr<Reconciled> Heartbeat(const std::string& worker_id, const std::string& lease_id,
                                       const WorkerLoad& load,
                                       const std::vector<HeldSession>& sessions, absl::Time now);

  // The worker leaves: sessions in its last heartbeat become kRecovering, the others it owned
  // kOffloaded. FailedPrecondition as Heartbeat.
  absl::StatusOr<Reconciled> Deregister(const std::string& worker_id, const std::string& lease_id);

  // Workers without a heartbeat for a lease become kLost and their sessions kRecovering; lost
  // workers are forgotten after `kLostKept`.
  Expired Expire(absl::Time now);

  // A call failed in transport. Nothing new goes there until it is heard of again.
  void MarkUnreachable(const std::string& worker_id);

  // NotFound names the workers there are. A draining worker is kDrained while no session is
  // resident on it, whoever moved the last one and whether or not anybody waited. Draining outlives
  // the worker's process: a worker of that id that registers later drains too, until undone or
  // deregistered.
  absl::Status SetDraining(const std::string& worker_id, bool draining);
  // After a restart, before the worker registers.
  void RestoreDraining(const std::string& worker_id) { draining_.insert(worker_id); }

  // nullptr when unknown. Valid until the next change.
  const Worker* FindWorker(const std::string& worker_id) const;
  // Registered and not lost.
  bool IsLive(const std::string& worker_id) const;
  const std::map<std::string, Worker>& workers() const { return workers_; }
  // "w1, w2" for messages; "none" when empty. Live workers only.
  std::string WorkerNames() const;

  // -- Sessions -------------------------------------------------------------------------------

  // After a restart: a session from the journal. If it is resident, its worker has one lease from
  // `now` to register, then it becomes kRecovering.
  void Load(Session session, absl::Time now);

  // A session that is new. AlreadyExists. Resident on a worker that is not live becomes
  // kRecovering.
  absl::Status Add(Session session);

  // Gives the session a new owner ("" = nobody: kOffloaded). Aborted unless `epoch` is larger than
  // the session's; NotFound.
  absl::Status Place(const std::string& session_id, const std::string& worker_id, uint64_t epoch);

  // Same owner, other placement. Ignored unless the session still has this epoch, so that a late
  // answer cannot undo a newer decision. Returns whether it was applied.
  bool SetPlacement(const std::string& session_id, uint64_t epoch, Placement placement);

  void SetRevision(const std::string& session_id, uint64_t revision);
  // Without effect at another epoch, and when a later question has been answered already.
  void UpdateFacts(const std::string& session_id, uint64_t epoch, uint64_t question,
                   const SessionFacts& facts);
  // A call succeeded: the store has content, the system prompt is no longer needed.
  void MarkUsed(const std::string& session_id, absl::Time now, std::optional<int64_t> n_tokens);
  void Remove(const std::string& session_id);

  // nullptr when unknown. Valid until the next change.
  const Session* Find(const std::string& session_id) const;
  // Resident sessions of a worker, by id.
  std::vector<std::string> SessionsOn(const std::string& worker_id) const;
  // Of a kRecovering session: the live worker whose latest report has the newest copy of it. "" for
  // none. Whether that copy is newer than the store's is for that worker to find out.
  std::string KeeperOf(const std::string& session_id) const;
  const std::map<std::string, Session>& sessions() const { return sessions_; }

  // Lost workers stay visible this long, so that an operator sees what happened.
  static constexpr absl::Duration kLostKept = absl::Minutes(10);

 private:
  Reconciled Reconcile(const std::string& worker_id, const std::vector<HeldSession>& held);
  void LoseSessionsOf(const std::string& worker_id, std::vector<std::string>* changed);
  void ChangePlacement(Session* session, Placement placement);
  void SettleDraining(Worker* worker) const;

  absl::Duration lease_;
  std::map<std::string, Worker> workers_;
  std::map<std::string, std::vector<HeldSession>> last_held_;  // by worker, its latest report
  std::map<std::string, Session> sessions_;
  std::set<std::string> draining_;
  // Workers known only from the journal, with the time until which they may register.
  std::map<std::string, absl::Time> expected_;
};

}  // namespace lexico::coord

// Moves of whole sessions, each as steps on workers with a change of epoch between them.
//
//   open      new session                worker opens it at its first epoch
//   take up   offloaded or recovering    epoch + 1 -> Restore on a worker (or open it again: a
//                                        session that was never used is not in the store)
//   offload   resident                   Offload on its worker; the store has it then
//   migrate   resident                   offload, take up elsewhere; if that fails, back to where
//   it
//                                        was, and if that fails too it stays offloaded: never lost
//   demote    resident, if need be by
//   taking
//             it up                      its worker makes its pages smaller
//   fence     its worker was lost        epoch + 1, nobody's: a live but unreachable owner loses it
//
// A step once begun is finished, whatever its caller does: half a move helps nobody. Steps are
// bounded by ClusterOptions::move_timeout instead.
//
// Thread safety: all methods may be called from any thread, each with its own Hold.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/service/caller.h"
#include "coordinator/service/cluster.h"

namespace lexico::coord {

// Where a session is, ready to be called.
struct Located {
  std::string worker_id;
  WorkerStub stub;
  uint64_t epoch = 0;
  absl::Duration restore_time;  // what it took to bring it there; zero when it was there
};

class Mover {
 public:
  explicit Mover(Cluster& cluster) : cluster_(cluster) {}

  // Tried this many workers, a move gives up: more attempts mean more waiting for the same store.
  static constexpr int kAttemptsMax = 3;

  // The session on a worker and free there: where it is, or where the router puts it. Errors are
  // those of the last attempt.
  absl::StatusOr<Located> Locate(const Caller& caller, const Hold& hold);

  // A new session on a worker of the router's choice. On failure nothing of it is left.
  absl::Status Open(const Caller& caller, const Hold& hold, Session session);

  // To a worker by name, when it is offloaded. The worker was checked by CheckTarget.
  absl::Status TakeUpOn(const Hold& hold, const std::string& worker_id);

  // OK when it is offloaded already.
  absl::Status Offload(const Hold& hold);

  // To `target`, or to the router's choice among the others for "". OK when it is there already.
  absl::Status Migrate(const Caller& caller, const Hold& hold, const std::string& target);

  // Resident afterwards. The profile was checked to be a demotion of the session's.
  absl::Status Demote(const Caller& caller, const Hold& hold, const std::string& profile);

  // The parent is resident afterwards, the fork on the same worker.
  absl::Status Fork(const Caller& caller, const Hold& parent, const Hold& child);

  // The connection to its worker failed, or the worker does not have it: kRecovering at the next
  // epoch. `was_transport` keeps new sessions from that worker until it is heard of again.
  absl::Status Fence(const Hold& hold, const std::string& worker_id, bool was_transport);

  // Whether a session could go there: NotFound, FailedPrecondition "worker_unsuitable" or
  // ResourceExhausted "worker_full".
  absl::Status CheckTarget(const Session& session, const std::string& worker_id);

 private:
  // One attempt on one worker. On failure the session is offloaded.
  absl::Status TakeUp(const Hold& hold, const std::string& worker_id);
  absl::Status OpenAt(const Session& session, const std::string& worker_id, uint64_t epoch,
                      v1::Session* opened);
  // Offload's step on the worker. When its connection fails the session is fenced.
  absl::Status OffloadFrom(const Hold& hold, const Session& session);
  // After a call that was cancelled: until its worker has stopped it, or kSettleTimeout. For
  // documents: by the time the worker refuses one as busy, it has been read from the client.
  void WaitUntilSettled(const Hold& hold);
  absl::StatusOr<std::string> ChooseTarget(const Caller& caller, const Session& session);

  Cluster& cluster_;
};

}  // namespace lexico::coord

// What the services share: registry, admission, the cluster state and the connections to workers,
// behind one mutex.
//
// The mutex is never held over a message to a worker or a write to disk. What keeps two operations
// on one session apart in the meantime is its Hold: one call or one move at a time (admission).
// Order of a change of owner: the state first (durable), then the registry, then the worker hears
// of it. A crash between any two leaves an epoch that nobody else was told of, and the next call
// places the session anew.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/admission/admission.h"
#include "coordinator/registry/registry.h"
#include "coordinator/router/router.h"
#include "coordinator/service/caller.h"
#include "coordinator/state/cluster_state.h"
#include "lexico/v1/admin.pb.h"
#include "lexico/v1/cache_store.pb.h"
#include "lexico/v1/worker.grpc.pb.h"
#include "proto/base/clock.h"
#include "proto/base/metrics.h"
#include "proto/rpc/server.h"

namespace lexico::coord {

struct ClusterOptions {
  // A worker unheard of for this long is lost. Workers send three heartbeats in this time.
  absl::Duration lease = absl::Seconds(5);
  AdmissionLimits admission;
  // Towards workers.
  rpc::TlsOptions tls;
  // A call for a session that is being moved waits this long, then it is UNAVAILABLE.
  absl::Duration move_wait = absl::Seconds(30);
  // One step of a move on a worker (Offload, Restore). A long session over a slow disk takes
  // minutes; beyond this the worker is taken as stuck.
  absl::Duration move_timeout = absl::Minutes(5);
  // What the store has not confirmed is tried again this often.
  absl::Duration store_retry = absl::Seconds(5);
  // What ListSessions says of a session that is in use is at most this old.
  absl::Duration facts_age = absl::Seconds(1);
  // The least profile of sessions that name none, where it is smaller than their own. Empty: they
  // are not demoted where memory is short.
  std::string min_profile;
};

class Cluster;
using WorkerStub = std::shared_ptr<v1::WorkerService::StubInterface>;

// The right to work on a session, given back by the destructor. Must not outlive the Cluster.
class Hold {
 public:
  Hold(Cluster* cluster, std::string session_id)
      : cluster_(cluster), session_id_(std::move(session_id)) {}
  Hold(Hold&& other) noexcept
      : cluster_(std::exchange(other.cluster_, nullptr)),
        session_id_(std::move(other.session_id_)) {}
  Hold& operator=(Hold&&) = delete;
  ~Hold();

  const std::string& session_id() const { return session_id_; }

 private:
  Cluster* cluster_;
  std::string session_id_;
};

class Cluster {
 public:
  // All references must outlive this.
  Cluster(const ClusterOptions& options, ClusterState& state, base::Metrics& metrics,
          base::Clock& clock);

  const ClusterOptions& options() const { return options_; }
  base::Metrics& metrics() { return metrics_; }

  // Takes up what the state knows. Once, before serving. The codec's errors name the record.
  absl::Status Recover();
  // Everything that waits is answered UNAVAILABLE "shutting_down", and new calls too.
  void BeginShutdown();
  bool IsStopping();
  // Expires leases and sets gauges; called by the ticker several times a lease.
  void Tick();

  // -- Workers (registry.h says what each does) -------------------------------------------------

  absl::StatusOr<Reconciled> Register(const Registration& registration, const v1::ModelInfo& model);
  absl::StatusOr<Reconciled> Heartbeat(const v1::HeartbeatRequest& request);
  absl::StatusOr<Reconciled> Deregister(const v1::DeregisterRequest& request);
  // Remembered by the state as well.
  absl::Status SetDraining(const std::string& worker_id, bool draining);
  void MarkUnreachable(const std::string& worker_id);

  std::vector<v1::Worker> ListWorkers();
  // One of each name and fingerprint, by name.
  std::vector<v1::ModelInfo> ListModels();
  // The model called `name`, or the only one for "". InvalidArgument, NotFound or Unavailable.
  absl::StatusOr<v1::ModelInfo> FindModel(const std::string& name);
  // A copy. NotFound names the workers there are.
  absl::StatusOr<Worker> FindWorker(const std::string& worker_id);
  // A live worker with this model; `model` "" is any.
  absl::StatusOr<std::string> AnyWorker(const std::string& model);
  // Unavailable when it has left.
  absl::StatusOr<WorkerStub> StubOf(const std::string& worker_id);

  // -- Holding a session ------------------------------------------------------------------------

  // For an Append or Generate. Waits while the session is being moved. NotFound also for another
  // tenant's session.
  absl::StatusOr<Hold> BeginCall(const Caller& caller, const std::string& session_id);
  // For a move. Waits for other moves; `wait_for_call` says whether for a running call as well
  // (drain) or not (FailedPrecondition "session_busy"). `any_tenant` is for operators.
  struct MoveOptions {
    bool wait_for_call = false;
    bool any_tenant = false;
  };
  absl::StatusOr<Hold> BeginMove(const Caller& caller, const std::string& session_id,
                                 MoveOptions options);
  // For an id that need not exist. `wait` for whatever is going on under that id.
  absl::StatusOr<Hold> BeginNew(const Caller& caller, const std::string& session_id, bool wait);
  // Counts a held call against a worker.
  absl::Status AssignWorker(const Hold& hold, const std::string& worker_id);

  // -- Sessions -----------------------------------------------------------------------------------

  // A copy, with its activity. NotFound also for another tenant's.
  struct Seen {
    Session session;
    Activity activity;
  };
  absl::StatusOr<Seen> Get(const std::string& tenant, const std::string& session_id);
  // REQUIRES: the session exists, which holding it ensures.
  Session Held(const Hold& hold);
  // Of one tenant, ids larger than `start_after`, at most `count`.
  std::vector<Seen> List(const std::string& tenant, const std::string& start_after, size_t count);
  std::vector<std::string> SessionsOn(const std::string& worker_id);

  // Where the session should be. For an existing session, waits up to `wait` for a worker to be
  // there at all; for its own worker after a restart, up to a lease.
  absl::StatusOr<Route> ChooseWorker(const Caller& caller, RouteRequest request,
                                     const std::string& session_id, absl::Duration wait);

  // Writes a new session down and adds it, at an epoch larger than any used before.
  // REQUIRES: held by BeginNew and unknown.
  absl::StatusOr<Session> Create(const Hold& hold, Session session);
  // A new owner ("" for none) at the next epoch, durable on return. Returns the epoch.
  // `placement` is kResident with an owner, else where the session is said to be.
  absl::StatusOr<uint64_t> ChangeOwner(const Hold& hold, const std::string& worker_id,
                                       Placement placement);
  // The owner did its part: placement and facts at the epoch they were told at.
  void Confirm(const Hold& hold, uint64_t epoch, Placement placement, const SessionFacts& facts);
  // Numbers a question to a worker about a session: of two answers that come at once, the later
  // question's holds. To be called before the question is sent, or after the reply of a call that
  // says what it left.
  uint64_t AskFacts();
  // What a worker said, outside a hold.
  void UpdateFacts(const std::string& session_id, uint64_t epoch, uint64_t question,
                   const SessionFacts& facts);
  // Resident sessions whose facts are due to be asked for: a call runs or ran, they came to a new
  // worker, or their last answer differed from the one before. Due again after facts_age / 2; when
  // only the store is behind, after twice the time of before.
  struct Stale {
    std::string session_id;
    std::string worker;
    uint64_t epoch = 0;
  };
  std::vector<Stale> TakeStale();
  // Whether a session that is on no worker is not known to be on the store's disk.
  bool AnyTierMayChange();
  void SetStoredTiers(const google::protobuf::RepeatedPtrField<v1::ManifestEntry>& stored);
  // A call ended before its worker did: cancelled, or out of time. The worker stops within a step,
  // and until then it refuses others as busy.
  void MarkUnsettled(const Hold& hold);
  // Whether that is so; false from the next time on.
  bool TakeUnsettled(const Hold& hold);
  // A call succeeded. `n_tokens` is given where the facts are older than the call.
  void MarkUsed(const Hold& hold, std::optional<int64_t> n_tokens);
  // Of a session that was not created after all.
  absl::Status Remove(const Hold& hold);

  // -- Deletions that the store has not confirmed (deleter.h) -----------------------------------

  // The session is gone on return, for its client and after a restart; that the store must be told
  // is written down before.
  absl::Status BeginDeletion(const Hold& hold);
  // The next one after `start_after`, from the first again behind the last, that nobody works on;
  // held.
  struct PendingDeletion {
    Hold hold;
    Deletion deletion;
  };
  std::optional<PendingDeletion> NextDeletion(const std::string& start_after);
  absl::Status EndDeletion(const Hold& hold);
  size_t n_deletions();

  // Of the sessions that a store names, those that this coordinator has neither now nor in a
  // deletion. Sessions of one id are told apart by their births.
  std::vector<v1::Orphan> OrphansAmong(
      const google::protobuf::RepeatedPtrField<v1::ManifestEntry>& stored);

  absl::Time Now() { return clock_.Now(); }

 private:
  friend class Hold;
  struct Link {
    std::string address;
    WorkerStub stub;
    v1::ModelInfo model;
  };

  void End(const std::string& session_id);
  absl::Status CheckVisible(const std::string& session_id, const std::string& tenant)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sleeps until something changed or a little later; fails when the caller has gone or we stop.
  absl::Status WaitForChange(const Caller& caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Refuse(const Admitted& admitted, const std::string& session_id,
                      const std::string& worker_id = "");
  // Writes the session's record as it is in the registry.
  absl::Status Persist(const std::string& session_id, Durability durability);
  void MarkStale(const std::string& session_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RecoverDeletions();
  // Not revoked yet: older copies of sessions in a call or a move, whose new owner may not get
  // them.
  void SpareUndecided(Reconciled* reconciled) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetGauges(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ClusterOptions options_;
  ClusterState& state_;
  base::Metrics& metrics_;
  base::Clock& clock_;

  absl::Mutex mutex_;
  absl::CondVar changed_;
  Registry registry_ ABSL_GUARDED_BY(mutex_);
  Admission admission_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Link> links_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> unsettled_ ABSL_GUARDED_BY(mutex_);            // session ids
  std::map<std::string, Deletion> deletions_ ABSL_GUARDED_BY(mutex_);  // by session id
  struct Due {
    absl::Time when;
    absl::Duration interval;
  };
  std::map<std::string, Due> stale_ ABSL_GUARDED_BY(mutex_);  // by session id
  uint64_t last_question_ ABSL_GUARDED_BY(mutex_) = 0;
  bool is_stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace lexico::coord

// Which calls may run now: bounds on calls in flight, and one call per session at a time.
//
// A call in flight either runs on a worker or waits in that worker's queue, so the bounds here are
// bounds on queues. What is over a bound is refused at once with the time after which trying again
// makes sense; nothing waits here, so a client's wait is always its own choice.
//
// A state machine without clock or threads; times come in. Guarantees, tested in
// admission_test.cc:
//   A1  calls in flight never exceed a bound: in all, of a worker, of a tenant
//   A2  a session has at most one activity
//   A3  after every Begin was matched by its End, nothing is left
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace lexico::coord {

struct AdmissionLimits {
  // Calls in flight in all. Each holds one thread of the server (service/server.h).
  int calls_max = 256;
  // Calls in flight on one worker: what runs there and what waits in its queue.
  int worker_calls_max = 64;
  // Calls in flight of one tenant; 0: no bound of its own.
  int tenant_calls_max = 0;
};

// What is going on with a session. A call is an Append or Generate; a move is everything that
// changes or copies the session as a whole: create, fork, offload, restore, migrate, delete.
enum class Activity { kNone, kCall, kMove };

// Values of the label `reason` of lexico_admission_rejections_total.
enum class Refusal { kNone, kSessionBusy, kSessionMoving, kQueueFull, kTenantFull, kWorkerFull };
std::string_view RefusalName(Refusal refusal);

struct Admitted {
  Refusal refusal = Refusal::kNone;
  // With kQueueFull, kTenantFull and kWorkerFull: when a place is expected to be free.
  absl::Duration retry_after;
  int64_t in_flight = 0;  // what was counted against ...
  int64_t bound = 0;      // ... which bound

  bool ok() const { return refusal == Refusal::kNone; }
};

class Admission {
 public:
  explicit Admission(const AdmissionLimits& limits) : limits_(limits) {}

  // Takes a place for an Append or Generate of a session, or says why not. Ended by End().
  Admitted BeginCall(const std::string& session_id, const std::string& tenant, absl::Time now);
  // Counts the session's call against a worker, in place of the one it was counted against before.
  // On refusal it is counted against none. REQUIRES: BeginCall succeeded for the session.
  Admitted AssignWorker(const std::string& session_id, const std::string& worker_id);
  // Moves have no bound: they are how an operator makes room.
  Admitted BeginMove(const std::string& session_id);
  // REQUIRES: a Begin succeeded for the session and was not ended.
  void End(const std::string& session_id, absl::Time now);

  Activity ActivityOf(const std::string& session_id) const;
  int64_t calls_in_flight() const { return n_calls_; }
  int64_t WorkerCalls(const std::string& worker_id) const;
  bool IsWorkerFull(const std::string& worker_id) const {
    return WorkerCalls(worker_id) >= limits_.worker_calls_max;
  }

 private:
  struct Entry {
    Activity activity = Activity::kNone;
    std::string tenant;
    std::string worker;
    absl::Time begin;
  };
  absl::Duration RetryAfter(int64_t in_flight);
  void CountWorker(const std::string& worker_id, int change);

  const AdmissionLimits limits_;
  std::map<std::string, Entry> active_;  // by session
  std::map<std::string, int64_t> worker_calls_;
  std::map<std::string, int64_t> tenant_calls_;
  int64_t n_calls_ = 0;
  // Mean duration of recent calls, exponentially weighted; the start value is a guess that the
  // first few calls replace.
  absl::Duration mean_call_ = absl::Seconds(1);
  int64_t n_refused_since_end_ = 0;
};

}  // namespace lexico::coord

// What the coordinator knows: workers under lease, and sessions with their placement.
//
// Plain values. Nothing here reads a clock, sends a message or writes a file; times come in as
// arguments. The words are those of docs/ARCHITECTURE.md section 1.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace lexico::coord {

enum class WorkerState {
  kReady,
  kDraining,  // keeps what it has, takes nothing new
  kDrained,   // draining, and nothing is left
  kLost,      // its lease ran out, or it left
};

// Where a session is. Whether a call runs on it is admission's knowledge, not a placement.
enum class Placement : uint8_t {
  // On disk in the journal: do not change the values.
  kResident = 0,    // `worker` holds it at `epoch`
  kOffloaded = 1,   // on no worker; the store has all of it
  kRecovering = 2,  // `worker` held it at `epoch` and was lost; the next call takes it up elsewhere
};

std::string_view WorkerStateName(WorkerState state);
std::string_view PlacementName(Placement placement);

// What a worker last said about its load.
struct WorkerLoad {
  int64_t n_pages_free = 0;
  int64_t n_pages = 0;  // 0: the worker does not say, and is never taken as full
  int32_t n_running = 0;
  int32_t n_waiting = 0;
  int32_t n_waiting_max = 0;  // 0: no bound told
  uint64_t code_bytes = 0;
  uint64_t fp16_equivalent_bytes = 0;
  int64_t n_pages_behind = 0;
};

// The model a worker serves. Sessions move only between workers of equal identity, because codes
// mean nothing under other weights or another dictionary.
struct WorkerModel {
  std::string name;
  std::string identity;               // fingerprints of weights, dictionary and tokenizer, joined
  std::vector<std::string> profiles;  // the first is the default
  bool has_chat_template = false;
};

struct Worker {
  std::string worker_id;
  std::string address;  // host:port of WorkerService
  std::string lease_id;
  WorkerState state = WorkerState::kReady;
  // A call to it failed in transport since its last heartbeat: nothing new is routed to it.
  bool unreachable = false;
  WorkerModel model;
  WorkerLoad load;
  int64_t n_sessions = 0;  // resident sessions of this registry
  absl::Time last_heartbeat;
};

// A session and the epoch at which a worker says it holds it.
struct HeldSession {
  std::string session_id;
  uint64_t epoch = 0;
  bool operator==(const HeldSession&) const = default;
};

// What a worker last reported about a session. Facts, not decisions: losing them costs a reader of
// GetSession precision, nothing else.
struct SessionFacts {
  int32_t tier = 0;  // lexico.v1.Tier
  int64_t n_tokens = 0;
  int64_t n_sealed_tokens = 0;
  int64_t n_durable_tokens = 0;
  uint64_t code_bytes = 0;
  uint64_t window_bytes = 0;
  uint64_t bookkeeping_bytes = 0;
  uint64_t fp16_equivalent_bytes = 0;
  double relative_error_k = 0;
  double relative_error_v = 0;
  std::string profile;  // now; empty: as at birth
  bool operator==(const SessionFacts&) const = default;
};

struct Session {
  // Constant after creation.
  std::string session_id;
  std::string tenant;
  std::string model;
  std::string model_identity;
  std::string profile;      // at birth
  std::string min_profile;  // empty: it is not demoted where memory is short
  int32_t format = 0;       // lexico.v1.TextFormat, resolved
  std::string parent;       // empty unless forked
  // Of the creating request's fields: tells a repeated CreateSession from a clashing one.
  std::string create_fingerprint;
  absl::Time create_time;

  // Kept only until the first Append or Generate succeeded: with it an empty session whose worker
  // was lost is opened again, since the store has nothing of it.
  std::string system_prompt;
  bool used = false;

  Placement placement = Placement::kOffloaded;
  std::string worker;  // the owner at `epoch`; empty when offloaded
  // Grows with every change of owner, never falls. See Registry.
  uint64_t epoch = 0;

  // Created by this process, which has given out every epoch of it: a worker that reports a larger
  // one holds an earlier session of that id. Not recorded.
  bool is_born_here = false;

  absl::Time last_use_time;
  SessionFacts facts;
  // Which question to a worker `facts` answer, counted by the cluster. Not recorded.
  uint64_t facts_question = 0;

  // Of its record in the cluster state (state/cluster_state.h); 0 before it was written.
  uint64_t revision = 0;
};

// A session that was deleted and that the store may still have. Its id is free for another one.
struct Deletion {
  std::string session_id;
  uint64_t epoch = 0;  // the session's last
  absl::Time create_time;
  absl::Time delete_time;

  uint64_t revision = 0;  // as in Session
};

}  // namespace lexico::coord

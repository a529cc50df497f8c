// What the engine keeps of a session and of a call.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/engine/engine.h"
#include "worker/engine/prefill.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

struct Session {
  std::string id;
  // Of the engine's thread while busy; otherwise guarded by the engine's mutex.
  std::unique_ptr<SessionKv> kv;
  // Guarded by the engine's mutex.
  bool busy = false;
  bool dropped = false;
  bool demoting = false;  // `kv` is null, and calls wait
  absl::Time last_use;
  SessionInfo info;  // as of the last published token
};

// An Append or a Generate. Of the engine's thread once submitted, but for `cancelled`.
struct Sequence {
  CallId id = 0;
  std::shared_ptr<Session> session;
  bool generate = false;
  std::vector<int32_t> ids;  // to append: the prompt, then resume_ids
  GenerateRequest request;   // of a Generate; prompt_ids and resume_ids have moved to `ids`
  CallCallbacks callbacks;
  absl::Time arrival;
  absl::Time deadline;
  std::atomic<bool> cancelled = false;

  // Blocks of pages that the prefill will seal.
  int64_t n_blocks_needed = 0;

  std::unique_ptr<PrefillJob> job;  // while it prefills
  bool started = false;             // its first slice has begun
  bool committed = false;           // the session has the prompt
  int64_t next_index = 0;           // of the next token
  absl::Time first_token;
  absl::Time last_token;
  FinishReason reason = FinishReason::kStop;
  bool ended_by_end_token = false;
  CallUsage usage;
  CallTiming timing;
};

}  // namespace lexico::worker

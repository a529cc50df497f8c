// Runs sessions on one model: tokens in, tokens out. The engine knows ids only; text, turns, stop
// strings and the store belong to worker/service.
//
// One thread of its own runs steps: each is one decode step of all running sequences, then one
// slice of one prefill (scheduler.h decides). Sessions are changed by that thread only, between
// publishing one token and the next.
//
// What is in a session's log (SessionKv) after a call:
//   Append      every id of the call. Prefill works on a fork that replaces the session at its end:
//               a call that fails or is cancelled before leaves the session as it was.
//   Generate    the prompt, then every id that was given to on_token, the last one included: an end
//               token, the token that completed a stop string, the token before a cancellation.
//               Nothing that on_token has not seen. A cancelled prefill leaves the session as it
//               was, without the prompt.
//   closing     then the closing ids of the call (GenerateRequest), so that the conversation is
//               well formed for the next turn. They and the last token cost nothing now: they stay
//               pending, and the next call's prefill computes them.
//
// Thread safety: all methods may be called from any thread. Callbacks run on the engine's thread,
// must return quickly (hand over to a queue), and must not call the engine, except for Cancel.
// Errors carry a reason word (errors.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/base/clock.h"
#include "proto/base/metrics.h"
#include "worker/kv/page_pool.h"
#include "worker/kv/session_kv.h"
#include "worker/kv/snapshot.h"
#include "worker/model/model_rank.h"
#include "worker/model/sampler.h"

namespace lexico::worker {

// Sealed pages of one session, to be written to the store behind the answers.
using PageSink = std::function<void(const std::string& session_id, std::vector<PageExport> pages)>;

// A session's pages became those of a smaller profile (worker/kv/demotion.h).
struct DemotionReport {
  std::string session_id;
  std::string from;  // profiles
  std::string to;
  bool by_call = false;     // otherwise because memory was short
  int64_t n_pages = 0;      // of all layers
  int64_t freed_bytes = 0;  // of the pool, copies of shared pages deducted
  absl::Duration took;      // with the steps of others in between
};

struct EngineOptions {
  // -- Capacity -----------------------------------------------------------------------------------
  // Memory for pages and windows, of all ranks of the model together, taken at start. 0, on devices
  // only: all that is left when prompts and steps have theirs.
  size_t kv_memory_bytes = size_t{2} << 30;
  // Calls that wait for their first step; one more is RESOURCE_EXHAUSTED "queue_full".
  int waiting_max = 64;
  // Prefills that have started and are not finished: each holds the hidden states of its tokens in
  // F32 and one layer's keys and values, hidden_dim * 4 + kv_dim * 8 bytes a token on a CPU,
  // hidden_dim * 4 + kv_dim * 4 on a GPU.
  int prefills_max = 4;
  // Of every GPU: memory for that, taken at start; a prompt that needs more is refused. 0: what one
  // prompt of the model's longest context needs.
  size_t prefill_memory_bytes = 0;
  // Sequences of one decode step; more take turns.
  int decode_seqs_max = 64;
  // A call that finds no memory for its pages for this long is RESOURCE_EXHAUSTED
  // "pages_exhausted"; scheduler.h decides. Long enough for an offload to free some.
  absl::Duration memory_wait_max = absl::Seconds(5);

  // On one GPU: decode steps that come again are recorded and enqueued as one (step_graphs.h).
  bool decode_graphs = true;

  // -- Behavior -----------------------------------------------------------------------------------
  base::Fingerprint tokenizer;  // part of page keys and manifests
  // Called on the engine's thread, after the token that caused the sealing was published. May be
  // empty.
  PageSink page_sink;
  // Called on the engine's thread when a session has other pages, which the store does not have.
  // May be empty.
  std::function<void(const DemotionReport& report)> on_demoted;
};

struct SessionSpec {
  std::string session_id;
  std::string tenant;
  std::string profile;  // empty: base::kDefaultProfile
  // Where memory is short, the session may be demoted to this profile before anybody is refused.
  // Empty, or equal to `profile`: it may not.
  std::string min_profile;
};

struct SessionInfo {
  std::string session_id;
  std::string tenant;
  std::string profile;           // now
  std::string birth_profile;     // before any demotion
  std::string min_profile;       // as SessionSpec
  bool busy = false;             // a call runs or waits, or it is being demoted
  int64_t n_tokens = 0;          // of the log, pending ones too
  int64_t n_pending_tokens = 0;  // of those, without keys and values yet
  int64_t n_sealed_tokens = 0;   // of those, in pages
  KvMemory memory;
  PageError mean_error;
};

struct EngineLoad {
  PagePool::Usage pool;
  // In pages of the default profile (of `dense` without dictionaries).
  int64_t n_pages_free = 0;
  int64_t n_pages = 0;
  // Of those in use, what demotions of idle sessions that allow it would free, about.
  int64_t n_pages_demotable = 0;
  int n_running = 0;  // sequences that decode or prefill
  int n_waiting = 0;
  int n_waiting_max = 0;
  int n_sessions = 0;
  // Of all sessions; shared pages count once for each session.
  KvMemory memory;
};

// -- Calls --------------------------------------------------------------------------------------

enum class FinishReason { kStop, kStopString, kLength };

// As lexico.v1.Usage.
struct CallUsage {
  int64_t n_context_tokens = 0;  // found in the cache
  int64_t n_prompt_tokens = 0;   // prefilled by this call, tokens left pending by earlier ones too
  int64_t n_generated_tokens = 0;  // without resume_ids
};

// As lexico.v1.Timing.
struct CallTiming {
  absl::Duration queue;              // from the call to its first slice
  absl::Duration prefill;            // slices of this call, without coding
  absl::Duration coding;             // OMP of its prefill and of its decode steps, whole batches;
                                     // on a device what slices and steps waited for it
  absl::Duration first_token;        // from the call to the first token; zero for Append
  absl::Duration decode;             // from the first to the last token
  absl::Duration prefill_attention;  // the part of `prefill` that is attention
  absl::Duration decode_attention;   // the part of its decode steps, whole batches
};

struct CallResult {
  CallUsage usage;
  CallTiming timing;
  FinishReason reason = FinishReason::kStop;  // of Generate
  SessionInfo session;                        // after the call
};

struct GeneratedToken {
  int64_t index = 0;    // from resume_ids.size(), without gaps
  bool is_end = false;  // one of eos_ids, and it ends the call
  SampledToken sampled;
};

// What to do after a token. kStopString ends the call: nothing more is computed, and the token
// stays in the session.
enum class TokenVerdict { kContinue, kStopString };

// Empty functions are not called. Exactly one on_finished for every call that was accepted: OK, or
// Cancelled, DeadlineExceeded, ResourceExhausted, Internal, or Aborted when the session was
// dropped.
struct CallCallbacks {
  std::function<void(const CallUsage&)> on_started;  // its first slice begins
  std::function<void(double)> on_progress;           // fraction of the prefill, 0..1, after a slice
  std::function<TokenVerdict(const GeneratedToken&)> on_token;
  std::function<void(absl::StatusOr<CallResult>)> on_finished;
};

struct AppendRequest {
  std::string session_id;
  std::vector<int32_t> ids;
  absl::Time deadline = absl::InfiniteFuture();
};

struct GenerateRequest {
  std::string session_id;
  std::vector<int32_t> prompt_ids;  // may be empty if the session has tokens
  SamplingParams sampling;
  int64_t max_new_tokens = 256;  // resume_ids included
  std::vector<int32_t> eos_ids;
  bool ignore_end_tokens = false;
  // Tokens that an interrupted run of this call has already published. They are appended after the
  // prompt; the stream goes on with index resume_ids.size() and the same random numbers, because a
  // draw depends on (seed, position) only.
  std::vector<int32_t> resume_ids;
  // Appended to the log when the call ends (also by cancellation after its first token): after an
  // end token, or after anything else. In a chat: what follows the end token in the template, and
  // the same with the end token in front.
  std::vector<int32_t> closing_ids_after_end;
  std::vector<int32_t> closing_ids_otherwise;
  absl::Time deadline = absl::InfiniteFuture();
};

using CallId = uint64_t;

class Engine {
 public:
  // Takes the memory and starts the thread. `ranks`: a model (worker/model/model_rank.h), whole or
  // split; without dictionaries only profiles without atoms are served.
  // `clock` and `metrics` must outlive the engine. Errors: InvalidArgument for options (with the
  // option's name, its value and the range), those of PagePool::Create.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        std::vector<ModelRank> ranks,
                                                        base::Clock* clock, base::Metrics* metrics);
  // Ends running calls with Unavailable "engine_stopping", then joins the thread. Snapshots and
  // imports must be gone before.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Transformer& transformer() const;
  // What its profiles depend on.
  base::CodingModel coding() const;

  // -- Sessions. A busy session is FailedPrecondition "session_busy", an unknown one NotFound. ----
  // AlreadyExists; NotFound for the profile; FailedPrecondition for one that the model or its
  // device does not have (proto/base/profile.h) and for a min_profile that is no demotion of it;
  // ResourceExhausted "pages_exhausted".
  absl::Status OpenSession(const SessionSpec& spec);
  // AlreadyExists; ResourceExhausted "pages_exhausted".
  absl::Status Fork(const std::string& session_id, const std::string& new_session_id);
  // Of a busy session: as of its last published token.
  absl::StatusOr<SessionInfo> Describe(const std::string& session_id) const;
  std::vector<SessionInfo> List() const;  // ordered by session_id
  // Makes its pages into those of a smaller profile; new ones are coded as that. Waits for the end.
  // Errors: NotFound for the profile; FailedPrecondition where it is no demotion of the session's
  // (proto/base/demotion.h), or this device has no kernels for it; ResourceExhausted
  // "pages_exhausted" where pages are shared and there is no room for copies.
  absl::StatusOr<SessionInfo> Demote(const std::string& session_id, const std::string& profile);
  // Also of a busy session: its call ends with Aborted within a step.
  absl::Status Drop(const std::string& session_id);
  // Cheap: pages by reference (payload_reader.h reads them), windows copied.
  absl::StatusOr<SessionSnapshot> Export(const std::string& session_id, bool with_window) const;

  // Restoring: buffers in the pool to receive pages into. Errors: snapshot.h.
  absl::StatusOr<std::unique_ptr<SessionImport>> BeginImport(const store::Manifest& manifest);
  // The session exists afterwards, and says how many tokens are pending. AlreadyExists.
  absl::StatusOr<SessionInfo> FinishImport(const std::string& session_id,
                                           std::unique_ptr<SessionImport> import);

  // -- Calls. Errors that are known at once are returned and no callback is called: NotFound,
  // FailedPrecondition "session_busy" and "context_full" (tokens and max_positions in the message),
  // InvalidArgument (an id outside the vocabulary, sampling, nothing to continue from),
  // ResourceExhausted "queue_full" with retry-after, and "pages_exhausted" when the call needs more
  // pages than the whole pool has. ---------------------------------------------------------------
  absl::StatusOr<CallId> Append(AppendRequest request, CallCallbacks callbacks);
  absl::StatusOr<CallId> Generate(GenerateRequest request, CallCallbacks callbacks);
  // The call ends with Cancelled within one step, if it has not ended already.
  void Cancel(CallId call);

  EngineLoad load() const;

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace lexico::worker

// The engine behind engine.h. Two halves: what any thread may call (engine_api.cc), and the loop of
// the engine's own thread (engine_loop.cc).
//
// Who owns what: a session's SessionKv belongs to the engine's thread while the session is busy,
// and to whoever holds the mutex otherwise. A sequence is made by the calling thread, handed over
// under the mutex, and from then on belongs to the engine's thread, but for its `cancelled` flag.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "proto/base/limits.h"
#include "worker/engine/decode_step.h"
#include "worker/engine/engine.h"
#include "worker/engine/engine_metrics.h"
#include "worker/engine/forward_ranks.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/sequence.h"
#include "worker/kv/ahead_coder.h"
#include "worker/kv/demotion.h"
#include "worker/model/sampler.h"

namespace lexico::worker {

// Places for pages of all sessions of a decode step together, at most.
inline int64_t PagesOfSteps(const EngineOptions& options, const ModelConfig& config) {
  return options.decode_seqs_max * SessionPages::PagesMax(config.max_positions / base::kPageTokens);
}

// Pages of one layer that steps code in one call at most: one of every sequence.
inline int64_t PagesAhead(const EngineOptions& options, const ForwardContext& context) {
  return std::min<int64_t>(options.decode_seqs_max, context.batch_pages_max());
}

std::vector<CoderOfRank> AheadCoders(ForwardRanks& ranks);

class Engine::Impl {
 public:
  Impl(const EngineOptions& options, std::unique_ptr<PagePool> pool,
       std::vector<std::unique_ptr<ForwardContext>> contexts, int n_atoms,
       const KvIdentity& identity, base::Metrics* metrics);
  // Takes the memory of steps and starts the thread.
  absl::Status Start();
  ~Impl();

  // -- Any thread (engine_api.cc); contracts in engine.h ------------------------------------------
  const Transformer& transformer() const { return *context_.transformer; }
  absl::Status OpenSession(const SessionSpec& spec);
  absl::Status Fork(const std::string& session_id, const std::string& new_session_id);
  absl::StatusOr<SessionInfo> Describe(const std::string& session_id) const;
  std::vector<SessionInfo> List() const;
  absl::StatusOr<SessionInfo> Demote(const std::string& session_id, const std::string& profile);
  absl::Status Drop(const std::string& session_id);
  absl::StatusOr<SessionSnapshot> Export(const std::string& session_id, bool with_window) const;
  absl::StatusOr<std::unique_ptr<SessionImport>> BeginImport(const store::Manifest& manifest);
  absl::StatusOr<SessionInfo> FinishImport(const std::string& session_id,
                                           std::unique_ptr<SessionImport> import);
  absl::StatusOr<CallId> Append(AppendRequest request, CallCallbacks callbacks);
  absl::StatusOr<CallId> Generate(GenerateRequest request, CallCallbacks callbacks);
  void Cancel(CallId call);
  EngineLoad load() const;
  base::CodingModel coding() const { return CodingOf(context_, n_atoms_); }

 private:
  static base::CodingModel CodingOf(const ForwardContext& context, int n_atoms) {
    return {.head_dim = context.shape.head_dim, .n_atoms = n_atoms};
  }
  absl::StatusOr<KvLayout> LayoutOf(const std::string& profile) const;
  // Waits for the end of a demotion.
  absl::StatusOr<std::shared_ptr<Session>> FindIdle(const std::string& session_id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckNew(const std::string& session_id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddSession(SessionInfo info, std::unique_ptr<SessionKv> kv)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void RefreshInfo(Session& session);

  // -- Demotions (engine_demotion.cc) -------------------------------------------------------------
  struct Candidate {
    std::shared_ptr<Session> session;
    KvLayout layout;
  };
  // Of a thread that waits for it.
  struct DemotionCall {
    std::shared_ptr<Session> session;
    KvLayout layout;
    std::optional<absl::Status> result;
  };
  struct RunningDemotion {
    std::shared_ptr<Session> session;
    std::unique_ptr<Demotion> demotion;
    DemotionCall* call = nullptr;  // null: memory is short
    absl::Time begin;
    DemotionReport report;
    bool is_started = false;
  };
  absl::Status CheckDemotable(const base::Profile& from, const base::Profile& to) const;
  absl::Status CheckMinProfile(const base::Profile& profile, const std::string& min_profile) const;
  // For a thread that found no memory: waits for a demotion. False: there is none to wait for.
  bool AwaitRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The layout of its least profile, where it may be demoted to one now.
  std::optional<KvLayout> LeastLayout(const SessionInfo& info) const;
  int64_t DemotableBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Not only idle ones: for the engine's thread, between two steps.
  std::optional<Candidate> ChooseCandidate(bool idle_only) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Begins one where it was asked for or memory is short. True: memory will be free.
  bool PlanDemotion(const StepBudget& budget) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status BeginDemotion(const Candidate& candidate, DemotionCall* call)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t DemotionSlice() const;
  // A slice of the one that runs, if any.
  void RunDemotion();
  void FinishDemotion();
  // Demotes a session at once, a busy one too. False: none can be.
  bool MakeRoom();
  void EndDemotions();
  absl::Status CheckIds(std::span<const int32_t> ids, const char* what) const;
  absl::StatusOr<CallId> Submit(const std::string& session_id, std::unique_ptr<Sequence> sequence);
  absl::Status CheckFits(const Session& session, Sequence& sequence) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration RetryAfter() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  EngineLoad LoadLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // -- The engine's thread (engine_loop.cc) -------------------------------------------------------
  using Ended = std::vector<std::pair<Sequence*, absl::Status>>;
  void Loop();
  // The next plan, or sequences that have to end first. False: the engine stops.
  bool NextPlan(StepPlan* plan, Ended* ended);
  void CollectEnded(absl::Time now, Ended* ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefreshWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  StepBudget Budget() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t SlabsNeeded(const Sequence& sequence) const;
  void RunPlan(StepPlan plan);
  // Ends a sequence that has waited for memory for too long.
  void Refuse(Sequence& sequence);
  absl::Status Admit(Sequence& sequence);
  void RunDecode(const std::vector<SequenceId>& ids);
  // Those whose next row has memory; others end.
  std::vector<Sequence*> ReserveRows(const std::vector<SequenceId>& ids);
  void RunSlice(Sequence& sequence);
  void FinishPrefill(Sequence& sequence);
  // Gives a token to the session and the caller. True: the sequence has ended.
  bool Publish(Sequence& sequence, SampledToken sampled);
  // The next token of sequence i of the last decode step.
  absl::StatusOr<SampledToken> Choose(const Sequence& sequence, int64_t i);
  // When the rows of these sequences' step are committed, or given up: what it coded of their
  // pages. One status each.
  std::vector<absl::Status> FinishCoding(std::span<Sequence* const> sequences);
  void SinkPages(const Session& session, int64_t first_page);
  void UpdateInfo(Session& session);
  void Finish(Sequence& sequence, const absl::Status& status);
  void UpdateGauges(bool force);
  Sequence& Find(SequenceId id);

  // Constant after construction.
  const EngineOptions options_;
  const std::unique_ptr<PagePool> pool_;
  const int n_atoms_;
  const KvIdentity identity_;
  base::Clock* const clock_;
  const KvLayout default_layout_;

  // Own synchronization.
  EngineMetrics metrics_;

  // Of the engine's thread.
  ForwardRanks ranks_;
  const ForwardContext& context_;  // of the first rank
  DecodeStep decode_step_;
  AheadCoder ahead_coder_;
  Sampler sampler_;
  std::optional<RunningDemotion> demotion_;
  bool wants_busy_ = false;  // no idle session can be demoted any more, a busy one can
  int64_t n_decode_steps_ = 0;
  std::vector<float> logits_;  // [vocab_size]
  absl::Time last_gauges_ = absl::InfinitePast();

  mutable absl::Mutex mutex_;
  absl::CondVar wake_;
  mutable absl::CondVar demoted_;  // a demotion ended, or will not be
  std::deque<DemotionCall*> demotion_calls_ ABSL_GUARDED_BY(mutex_);
  bool is_demoting_ ABSL_GUARDED_BY(mutex_) = false;
  bool room_wanted_ ABSL_GUARDED_BY(mutex_) = false;  // threads are in AwaitRoom
  int64_t n_demotions_ ABSL_GUARDED_BY(mutex_) = 0;   // ended, or found to be none
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  CallId next_call_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<std::string, std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(mutex_);
  std::map<CallId, std::unique_ptr<Sequence>> sequences_ ABSL_GUARDED_BY(mutex_);
  EngineState state_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;  // the last member: it uses all others
};

}  // namespace lexico::worker

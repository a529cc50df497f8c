// Demotions: asked for by calls, or made when memory is short before anybody is refused.
//
// An idle session is demoted a slice at a time between steps; until its end its SessionKv belongs
// to the demotion (Session::demoting), and calls for it wait in FindIdle. A busy one, whose turn
// comes only when no idle one is left, is demoted at once, between two steps.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/demotion.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "worker/engine/demotion_policy.h"
#include "worker/engine/engine_impl.h"
#include "worker/engine/errors.h"

namespace lexico::worker {
namespace {

// Vectors of a slice on a CPU: some 50 ms of one thread.
constexpr int64_t kSliceVectors = 16384;

}  // namespace

absl::Status Engine::Impl::CheckDemotable(const base::Profile& from,
                                          const base::Profile& to) const {
  LEXICO_RETURN_IF_ERROR(WithReason(base::CheckDemotion(from, to), kReasonNotSmaller));
  LEXICO_RETURN_IF_ERROR(base::CheckProfile(to, coding()));
  if (!context_.on_device() || (from.is_paper() && to.is_paper())) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("{} to {}: a GPU demotes paper-sN only; migrate the session to a CPU worker",
                  from.name, to.name));
}

absl::Status Engine::Impl::CheckMinProfile(const base::Profile& profile,
                                           const std::string& min_profile) const {
  if (min_profile.empty() || min_profile == profile.name) return absl::OkStatus();
  LEXICO_ASSIGN_OR_RETURN(const base::Profile least, base::ParseProfile(min_profile));
  return base::Annotate(CheckDemotable(profile, least), "min_profile");
}

// -- Any thread -----------------------------------------------------------------------------------

absl::StatusOr<SessionInfo> Engine::Impl::Demote(const std::string& session_id,
                                                 const std::string& profile) {
  LEXICO_ASSIGN_OR_RETURN(const KvLayout layout, LayoutOf(profile));
  absl::MutexLock lock(&mutex_);
  LEXICO_ASSIGN_OR_RETURN(const std::shared_ptr<Session> session, FindIdle(session_id));
  LEXICO_RETURN_IF_ERROR(CheckDemotable(session->kv->layout().profile, layout.profile));
  DemotionCall call{.session = session, .layout = layout};
  session->demoting = true;
  demotion_calls_.push_back(&call);
  changed_ = true;
  wake_.Signal();
  while (!call.result.has_value()) demoted_.Wait(&mutex_);
  LEXICO_RETURN_IF_ERROR(*call.result);
  return session->info;
}

bool Engine::Impl::AwaitRoom() {
  if (stopping_) return false;
  if (!is_demoting_ && !ChooseCandidate(/*idle_only=*/true).has_value()) return false;
  room_wanted_ = true;
  changed_ = true;
  wake_.Signal();
  const int64_t seen = n_demotions_;
  while (n_demotions_ == seen && !stopping_) demoted_.Wait(&mutex_);
  return !stopping_;
}

std::optional<KvLayout> Engine::Impl::LeastLayout(const SessionInfo& info) const {
  if (info.min_profile.empty() || info.min_profile == info.profile) return std::nullopt;
  const auto now = base::ParseProfile(info.profile);
  const auto least = base::ParseProfile(info.min_profile);
  // One that came from a worker that could.
  if (!now.ok() || !least.ok() || !CheckDemotable(*now, *least).ok()) return std::nullopt;
  return MakeKvLayout(context_.shape, *least, n_atoms_);
}

int64_t Engine::Impl::DemotableBytes() const {
  int64_t bytes = 0;
  for (const auto& [id, session] : sessions_) {
    if (session->busy || session->demoting) continue;
    const auto layout = LeastLayout(session->info);
    if (!layout.has_value()) continue;
    const auto before = static_cast<int64_t>(session->info.memory.code_bytes);
    const int64_t n_pages = session->info.n_sealed_tokens / layout->page.page_tokens;
    const auto after =
        static_cast<int64_t>(layout->page_block_bytes()) * n_pages * pool_->n_ranks();
    bytes += std::max<int64_t>(before - after, 0);
  }
  return bytes;
}

std::optional<Engine::Impl::Candidate> Engine::Impl::ChooseCandidate(bool idle_only) const {
  std::vector<Candidate> sessions;
  std::vector<DemotionCandidate> candidates;
  for (const auto& [id, session] : sessions_) {
    if (session->demoting || (idle_only && session->busy)) continue;
    const auto layout = LeastLayout(session->info);
    if (!layout.has_value()) continue;
    candidates.push_back({.is_idle = !session->busy,
                          .last_use = session->last_use,
                          .freed_bytes = BytesFreedBy(*pool_, *session->kv, *layout)});
    sessions.push_back({session, *layout});
  }
  const auto chosen = ChooseDemotion(candidates);
  if (!chosen.has_value()) return std::nullopt;
  return sessions[*chosen];
}

// -- The engine's thread --------------------------------------------------------------------------

bool Engine::Impl::PlanDemotion(const StepBudget& budget) {
  if (demotion_.has_value()) return true;
  if (!demotion_calls_.empty()) {
    DemotionCall* const call = demotion_calls_.front();
    demotion_calls_.pop_front();
    if (const absl::Status begun = BeginDemotion({call->session, call->layout}, call);
        !begun.ok()) {
      call->session->demoting = false;
      call->result = WithReason(begun, kReasonPagesExhausted, absl::Seconds(1));
      demoted_.SignalAll();
      return false;
    }
    return true;
  }
  const bool is_short = IsShort(state_, budget);
  // No more than what the sealings of running sequences may take. While a slab is left a demotion
  // has room to begin, also of sessions that fill none.
  const bool is_near = !state_.running.empty() && budget.slabs_free <= budget.slabs_reserved;
  if (!room_wanted_ && !is_short && !is_near) return false;
  const auto candidate = ChooseCandidate(/*idle_only=*/true);
  if (candidate.has_value() && BeginDemotion(*candidate, nullptr).ok()) return true;
  if (is_short || is_near) wants_busy_ = ChooseCandidate(/*idle_only=*/false).has_value();
  // Nobody is left: whoever waits looks again, and sees that.
  if (std::exchange(room_wanted_, false)) {
    ++n_demotions_;
    demoted_.SignalAll();
  }
  return wants_busy_;
}

absl::Status Engine::Impl::BeginDemotion(const Candidate& candidate, DemotionCall* call) {
  Session& session = *candidate.session;
  DemotionReport report{.session_id = session.id,
                        .from = session.info.profile,
                        .to = candidate.layout.profile.name,
                        .by_call = call != nullptr};
  auto begun = Demotion::Begin(pool_.get(), AheadCoders(ranks_), &ranks_.team(), candidate.layout,
                               &session.kv);
  if (!begun.ok()) return begun.status();
  session.demoting = true;
  is_demoting_ = true;
  demotion_.emplace(RunningDemotion{.session = candidate.session,
                                    .demotion = *std::move(begun),
                                    .call = call,
                                    .begin = clock_->Now(),
                                    .report = std::move(report)});
  return absl::OkStatus();
}

int64_t Engine::Impl::DemotionSlice() const {
  // The scratch is of the pages that steps code, and holds keys and values side by side.
  if (context_.on_device()) return std::max<int64_t>(1, PagesAhead(options_, context_) / 2);
  const int64_t page_vectors = int64_t{2} * context_.shape.n_layers * context_.shape.n_kv_heads *
                               default_layout_.page.page_tokens;
  return std::max<int64_t>(1, kSliceVectors / page_vectors);
}

void Engine::Impl::RunDemotion() {
  if (!demotion_.has_value()) return;
  if (!demotion_->is_started) {
    // Its pages may have been coded on other streams just now.
    ranks_.Synchronize();
    ranks_.WaitForCoding();
    demotion_->is_started = true;
  }
  const absl::Time begin = clock_->Now();
  demotion_->demotion->RunSlice(DemotionSlice());
  metrics_.OnStep("demotion", clock_->Now() - begin);
  if (demotion_->demotion->done()) FinishDemotion();
}

void Engine::Impl::FinishDemotion() {
  RunningDemotion ended = *std::exchange(demotion_, std::nullopt);
  Session& session = *ended.session;
  DemotionReport& report = ended.report;
  report.n_pages = ended.demotion->n_pages() * context_.shape.n_layers;
  report.freed_bytes = ended.demotion->freed_bytes();
  report.took = clock_->Now() - ended.begin;
  std::unique_ptr<SessionKv> kv = ended.demotion->Finish();
  metrics_.OnDemoted(report);
  if (options_.on_demoted) options_.on_demoted(report);
  absl::MutexLock lock(&mutex_);
  session.kv = std::move(kv);
  session.demoting = false;
  RefreshInfo(session);
  is_demoting_ = false;
  room_wanted_ = false;
  ++n_demotions_;
  if (ended.call != nullptr) ended.call->result = absl::OkStatus();
  demoted_.SignalAll();
}

bool Engine::Impl::MakeRoom() {
  if (!demotion_.has_value()) {
    absl::MutexLock lock(&mutex_);
    const auto candidate = ChooseCandidate(/*idle_only=*/false);
    if (!candidate.has_value() || !BeginDemotion(*candidate, nullptr).ok()) return false;
  }
  while (demotion_.has_value()) RunDemotion();
  return true;
}

void Engine::Impl::EndDemotions() {
  absl::MutexLock lock(&mutex_);
  const absl::Status stopping =
      WithReason(absl::UnavailableError("the engine is stopping"), kReasonStopping);
  if (demotion_.has_value() && demotion_->call != nullptr) demotion_->call->result = stopping;
  for (DemotionCall* const call : demotion_calls_) call->result = stopping;
  demotion_calls_.clear();
  demotion_.reset();
  demoted_.SignalAll();
}

}  // namespace lexico::worker

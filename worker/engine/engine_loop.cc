// The engine's own thread: plan, step, publish.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/limits.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "worker/engine/engine_impl.h"
#include "worker/engine/errors.h"

namespace lexico::worker {
namespace {

// How often a blocked engine looks again: pages are also freed by threads that drop snapshots, and
// deadlines pass.
constexpr absl::Duration kBlockedPoll = absl::Milliseconds(20);
constexpr absl::Duration kGaugeInterval = absl::Milliseconds(250);

}  // namespace

std::vector<CoderOfRank> AheadCoders(ForwardRanks& ranks) {
  std::vector<CoderOfRank> coders;
  for (int rank = 0; rank < ranks.size(); ++rank) coders.push_back(ranks[rank].ahead_coder());
  return coders;
}

Engine::Impl::Impl(const EngineOptions& options, std::unique_ptr<PagePool> pool,
                   std::vector<std::unique_ptr<ForwardContext>> contexts, int n_atoms,
                   const KvIdentity& identity, base::Metrics* metrics)
    : options_(options),
      pool_(std::move(pool)),
      n_atoms_(n_atoms),
      identity_(identity),
      clock_(contexts[0]->clock),
      default_layout_(MakeKvLayout(
          contexts[0]->shape,
          *base::ParseProfile(base::ListedProfiles(CodingOf(*contexts[0], n_atoms))[0]), n_atoms)),
      metrics_(metrics),
      ranks_(std::move(contexts)),
      context_(ranks_.first()),
      decode_step_(&ranks_),
      ahead_coder_(AheadCoders(ranks_), &ranks_.team()),
      logits_(context_.config().vocab_size) {}

absl::Status Engine::Impl::Start() {
  if (context_.on_device()) {
    LEXICO_RETURN_IF_ERROR(
        decode_step_.Reserve(options_.decode_seqs_max, PagesOfSteps(options_, context_.config())));
  }
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

Engine::Impl::~Impl() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    wake_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

void Engine::Impl::Loop() {
  StepPlan plan;
  Ended ended;
  while (NextPlan(&plan, &ended)) {
    for (const auto& [sequence, status] : ended) Finish(*sequence, status);
    if (ended.empty()) RunPlan(std::move(plan));
    UpdateGauges(false);
    ended.clear();
  }
  for (const auto& [sequence, status] : ended) Finish(*sequence, status);
  EndDemotions();
}

bool Engine::Impl::NextPlan(StepPlan* plan, Ended* ended) {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) {
        for (const auto& [id, sequence] : sequences_) {
          ended->emplace_back(
              sequence.get(),
              WithReason(absl::UnavailableError("the engine is stopping"), kReasonStopping));
        }
        return false;
      }
      changed_ = false;
      const absl::Time now = clock_->Now();
      RefreshWaiting();
      CollectEnded(now, ended);
      if (!ended->empty()) return true;
      StepBudget budget = Budget();
      budget.relief_comes = PlanDemotion(budget);
      NoteShortages(budget, now, &state_);
      *plan = PlanStep(state_, budget, now);
      if (!plan->empty() || budget.relief_comes) return true;
    }
    UpdateGauges(true);
    absl::MutexLock lock(&mutex_);
    const bool blocked = !state_.waiting.empty();
    while (!changed_ && !stopping_) {
      if (!blocked) {
        wake_.Wait(&mutex_);
      } else if (wake_.WaitWithTimeout(&mutex_, kBlockedPoll)) {
        break;
      }
    }
  }
}

int64_t Engine::Impl::SlabsNeeded(const Sequence& sequence) const {
  const KvLayout& layout = sequence.session->kv->layout();
  // And its fork's windows.
  return pool_->SlabsFor(layout.page_block_bytes(), sequence.n_blocks_needed) +
         pool_->SlabsFor(layout.window_block_bytes(), 1);
}

void Engine::Impl::RefreshWaiting() {
  for (WaitingSequence& waiting : state_.waiting) {
    waiting.slabs_needed = SlabsNeeded(*sequences_.at(waiting.id));
  }
}

StepBudget Engine::Impl::Budget() const {
  StepBudget budget;
  budget.decode_seqs_max = options_.decode_seqs_max;
  budget.prefills_max = options_.prefills_max;
  budget.memory_wait_max = options_.memory_wait_max;
  budget.slabs_free = pool_->free_slabs();
  size_t sealing_bytes = 0;
  for (const RunningDecode& running : state_.running) {
    const KvLayout& layout = sequences_.at(running.id)->session->kv->layout();
    sealing_bytes += layout.page_block_bytes();
  }
  budget.slabs_reserved =
      static_cast<int64_t>((sealing_bytes + pool_->slab_bytes() - 1) / pool_->slab_bytes());
  return budget;
}

void Engine::Impl::CollectEnded(absl::Time now, Ended* ended) {
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->session->dropped) {
      ended->emplace_back(sequence.get(), absl::AbortedError(fmt::format("session {} was dropped",
                                                                         sequence->session->id)));
    } else if (sequence->cancelled) {
      ended->emplace_back(sequence.get(), absl::CancelledError("the call was cancelled"));
    } else if (now >= sequence->deadline) {
      ended->emplace_back(sequence.get(),
                          absl::DeadlineExceededError("the deadline of the call has passed"));
    }
  }
}

void Engine::Impl::Refuse(Sequence& sequence) {
  const KvLayout& layout = sequence.session->kv->layout();
  absl::Duration retry_after;
  {
    absl::MutexLock lock(&mutex_);
    retry_after = RetryAfter();
  }
  metrics_.OnRejected(kReasonPagesExhausted);
  Finish(
      sequence,
      WithReason(
          absl::ResourceExhaustedError(fmt::format(
              "session {} needs {} blocks of pages, {} are free after {} s of waiting; offload or "
              "delete sessions, or raise --kv_memory",
              sequence.session->id, sequence.n_blocks_needed,
              pool_->FreeBlocks(layout.page_block_bytes()),
              absl::ToInt64Seconds(options_.memory_wait_max))),
          kReasonPagesExhausted, retry_after));
}

Sequence& Engine::Impl::Find(SequenceId id) {
  absl::MutexLock lock(&mutex_);
  return *sequences_.at(id);
}

void Engine::Impl::RunPlan(StepPlan plan) {
  for (const SequenceId id : plan.refuse) Refuse(Find(id));
  int64_t admitted_slices = 0;
  if (plan.admit.has_value()) {
    Sequence& sequence = Find(*plan.admit);
    // Another thread may have taken the memory since the plan was made: it waits on.
    if (Admit(sequence).ok()) {
      admitted_slices = sequence.job->slices_left();
    } else {
      plan.admit.reset();
    }
  }
  {
    absl::MutexLock lock(&mutex_);
    ApplyPlan(plan, clock_->Now(), admitted_slices, &state_);
  }
  if (!plan.decode.empty()) {
    // Steps are short: coding beside them would fill the device before each of their ops.
    ranks_.WaitForCoding();
    const absl::Time begin = clock_->Now();
    RunDecode(plan.decode);
    metrics_.OnStep("decode", clock_->Now() - begin);
  }
  if (plan.slice.has_value()) {
    const absl::Time begin = clock_->Now();
    RunSlice(Find(*plan.slice));
    metrics_.OnStep("prefill", clock_->Now() - begin);
  }
  RunDemotion();
  if (std::exchange(wants_busy_, false)) MakeRoom();
}

absl::Status Engine::Impl::Admit(Sequence& sequence) {
  if (!PrefillJob::HasWorkMemory(context_, *sequence.session->kv, std::ssize(sequence.ids))) {
    return absl::ResourceExhaustedError("other prompts have the memory of prompts");
  }
  auto fork = sequence.session->kv->Fork();
  if (!fork.ok()) return fork.status();
  SessionKv& kv = **fork;
  kv.AddPending(sequence.ids);
  // Nothing to compute, but logits are wanted: the newest token is computed again.
  if (kv.pending().empty()) kv.PopRow();
  sequence.usage.n_context_tokens = kv.n_tokens();
  sequence.usage.n_prompt_tokens = static_cast<int64_t>(kv.pending().size());
  auto job = PrefillJob::Create(&ranks_, std::move(*fork), sequence.generate);
  if (!job.ok()) return job.status();
  sequence.job = std::move(*job);
  sequence.started = true;
  sequence.timing.queue = clock_->Now() - sequence.arrival;
  metrics_.OnStarted(sequence.usage, sequence.timing.queue);
  if (sequence.callbacks.on_started) sequence.callbacks.on_started(sequence.usage);
  return absl::OkStatus();
}

// -- Prefill
// ----------------------------------------------------------------------------------------

void Engine::Impl::RunSlice(Sequence& sequence) {
  PrefillJob& job = *sequence.job;
  const absl::Time begin = clock_->Now();
  const absl::Duration coding_before = job.coding_time();
  const int64_t vectors_before = job.n_coded_vectors();
  const absl::Status status = job.RunSlice();
  const absl::Duration coding = job.coding_time() - coding_before;
  sequence.timing.coding += coding;
  sequence.timing.prefill_attention = job.attention_time();
  sequence.timing.prefill += clock_->Now() - begin - coding;
  metrics_.OnCoded(job.n_coded_vectors() - vectors_before, coding);
  if (!status.ok()) {
    if (job.non_finite().has_value()) metrics_.OnNonFinite(*job.non_finite());
    Finish(sequence, status);
    return;
  }
  if (sequence.callbacks.on_progress) sequence.callbacks.on_progress(job.fraction());
  if (job.done()) FinishPrefill(sequence);
}

void Engine::Impl::FinishPrefill(Sequence& sequence) {
  Session& session = *sequence.session;
  SampledToken sampled;
  if (sequence.generate) {
    // Before the commit: when no true token can be chosen, the session stays as it was.
    const absl::Time begin = clock_->Now();
    sequence.job->Logits(logits_.data());
    const auto log = sequence.job->log();
    auto chosen =
        sampler_.Sample(sequence.request.sampling, logits_, log, static_cast<int64_t>(log.size()));
    sequence.timing.prefill += clock_->Now() - begin;
    if (!chosen.ok()) {
      Finish(sequence, chosen.status());
      return;
    }
    sampled = *std::move(chosen);
  }
  const int64_t pages_before = session.kv->n_pages();
  session.kv = sequence.job->Commit();
  sequence.job.reset();
  sequence.committed = true;
  bool ended = true;
  if (sequence.generate) {
    {
      absl::MutexLock lock(&mutex_);
      std::erase_if(state_.prefills,
                    [&](const ActivePrefill& prefill) { return prefill.id == sequence.id; });
      state_.running.push_back({.id = sequence.id, .last_step = state_.step});
    }
    ended = Publish(sequence, std::move(sampled));
  }
  SinkPages(session, pages_before);
  if (ended) Finish(sequence, absl::OkStatus());
}

// -- Decode
// -----------------------------------------------------------------------------------------

std::vector<Sequence*> Engine::Impl::ReserveRows(const std::vector<SequenceId>& ids) {
  std::vector<std::pair<Sequence*, absl::Status>> refused;
  std::vector<Sequence*> batch;
  for (size_t i = 0; i < ids.size(); ++i) {
    Sequence& sequence = Find(ids[i]);
    const absl::Status reserved = sequence.session->kv->ReserveRow();
    if (reserved.ok()) {
      batch.push_back(&sequence);
    } else if (absl::IsResourceExhausted(reserved) && MakeRoom()) {
      // Of a session of this step perhaps, whose row is then to be reserved again.
      batch.clear();
      refused.clear();
      i = static_cast<size_t>(-1);
    } else {
      refused.emplace_back(&sequence, reserved);
    }
  }
  for (const auto& [sequence, status] : refused) {
    if (!absl::IsResourceExhausted(status)) {
      Finish(*sequence, status);
      continue;
    }
    metrics_.OnRejected(kReasonPagesExhausted);
    Finish(*sequence, WithReason(status, kReasonPagesExhausted, absl::Seconds(1)));
  }
  return batch;
}

void Engine::Impl::RunDecode(const std::vector<SequenceId>& ids) {
  std::vector<Sequence*> batch = ReserveRows(ids);
  // Neighbours of one layout share their calls; the order within a layout stays.
  std::stable_sort(batch.begin(), batch.end(), [](const Sequence* a, const Sequence* b) {
    return a->session->kv->layout().profile.name < b->session->kv->layout().profile.name;
  });
  std::vector<SessionKv*> sessions;
  std::vector<kernels::RowDraw> draws;
  int n_top = 1;
  for (const Sequence* sequence : batch) {
    sessions.push_back(sequence->session->kv.get());
    const SamplingParams& sampling = sequence->request.sampling;
    // The token that this step computes is in the log already; the one that it gives comes behind.
    draws.push_back(Sampler::DrawOf(sampling, std::ssize(sessions.back()->log())));
    n_top = std::max(n_top, Sampler::TopNeeded(sampling));
  }
  ahead_coder_.Begin(sessions, n_decode_steps_++, PagesAhead(options_, context_));
  decode_step_.Run(sessions, draws, n_top);
  if (!sessions.empty()) metrics_.OnLaunch(decode_step_.launch());

  std::vector<std::optional<absl::Status>> ended(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    Sequence& sequence = *batch[i];
    if (const auto bad = decode_step_.non_finite(static_cast<int64_t>(i)); bad.has_value()) {
      metrics_.OnNonFinite(*bad);
      ended[i] = absl::InternalError(
          fmt::format("a key or value at position {} is not finite", sessions[i]->n_tokens()));
      continue;
    }
    sequence.timing.decode_attention += decode_step_.attention_time();
    auto sampled = Choose(sequence, static_cast<int64_t>(i));
    if (!sampled.ok()) {
      ended[i] = sampled.status();
    } else if (Publish(sequence, *std::move(sampled))) {
      ended[i] = absl::OkStatus();
    }
  }
  // Behind the tokens: coding, then the ends. A session whose call ends is sealed like any other.
  const std::vector<absl::Status> coded = FinishCoding(batch);
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!coded[i].ok() && (!ended[i].has_value() || ended[i]->ok())) ended[i] = coded[i];
    if (ended[i].has_value()) Finish(*batch[i], *ended[i]);
  }
}

absl::StatusOr<SampledToken> Engine::Impl::Choose(const Sequence& sequence, int64_t i) {
  const SamplingParams& sampling = sequence.request.sampling;
  const auto log = sequence.session->kv->log();
  if (context_.on_device()) {
    auto chosen = sampler_.SampleTop(sampling, decode_step_.top(i), std::ssize(log));
    if (!chosen.ok()) return chosen.status();
    if (chosen->has_value()) return **std::move(chosen);
  }
  return sampler_.Sample(sampling, decode_step_.logits(i), log, std::ssize(log));
}

std::vector<absl::Status> Engine::Impl::FinishCoding(std::span<Sequence* const> sequences) {
  std::vector<int64_t> pages_before;
  for (const Sequence* sequence : sequences) {
    pages_before.push_back(sequence->session->kv->n_pages());
  }
  const absl::Time begin = clock_->Now();
  const CodedAhead coded = ahead_coder_.Finish();
  if (coded.n_vectors > 0) {
    const absl::Duration took = clock_->Now() - begin;
    for (Sequence* sequence : sequences) sequence->timing.coding += took;
    metrics_.OnCoded(coded.n_vectors, took);
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    SinkPages(*sequences[i]->session, pages_before[i]);
  }
  return coded.statuses;
}

bool Engine::Impl::Publish(Sequence& sequence, SampledToken sampled) {
  SessionKv& kv = *sequence.session->kv;
  const GenerateRequest& request = sequence.request;
  const absl::Time now = clock_->Now();
  if (sequence.usage.n_generated_tokens == 0) {
    sequence.first_token = now;
    sequence.timing.first_token = now - sequence.arrival;
    metrics_.OnFirstToken(sequence.timing.first_token);
  } else {
    metrics_.OnNextToken(now - sequence.last_token);
  }
  sequence.last_token = now;
  sequence.timing.decode = now - sequence.first_token;
  ++sequence.usage.n_generated_tokens;

  GeneratedToken token;
  token.index = sequence.next_index++;
  token.is_end = !request.ignore_end_tokens &&
                 std::find(request.eos_ids.begin(), request.eos_ids.end(), sampled.id) !=
                     request.eos_ids.end();
  kv.AddPending({&sampled.id, 1});
  token.sampled = std::move(sampled);
  UpdateInfo(*sequence.session);
  TokenVerdict verdict = TokenVerdict::kContinue;
  if (sequence.callbacks.on_token) verdict = sequence.callbacks.on_token(token);

  if (token.is_end) {
    sequence.ended_by_end_token = true;
    sequence.reason = FinishReason::kStop;
    return true;
  }
  if (verdict == TokenVerdict::kStopString) {
    sequence.reason = FinishReason::kStopString;
    return true;
  }
  const auto n_log = static_cast<int64_t>(kv.log().size());
  sequence.reason = FinishReason::kLength;
  return sequence.next_index >= request.max_new_tokens || n_log >= context_.config().max_positions;
}

// -- Ends and accounts
// ------------------------------------------------------------------------------

void Engine::Impl::SinkPages(const Session& session, int64_t first_page) {
  if (session.kv->n_pages() == first_page) return;
  ranks_.Synchronize();  // exports copy beside the ops
  std::vector<PageExport> pages = SealedPages(pool_.get(), *session.kv, first_page).Export();
  metrics_.OnSealed(pages);
  if (options_.page_sink) options_.page_sink(session.id, std::move(pages));
}

void Engine::Impl::UpdateInfo(Session& session) {
  absl::MutexLock lock(&mutex_);
  RefreshInfo(session);
}

void Engine::Impl::Finish(Sequence& sequence, const absl::Status& status) {
  ranks_.Synchronize();  // whoever has the session next may copy it beside the ops
  sequence.job.reset();  // an unfinished prefill gives its pages back
  Session& session = *sequence.session;
  // A prompt in the log needs its closing, however the answer ended.
  if (sequence.generate && sequence.committed) {
    session.kv->AddPending(sequence.ended_by_end_token ? sequence.request.closing_ids_after_end
                                                       : sequence.request.closing_ids_otherwise);
  }
  absl::StatusOr<CallResult> result = CallResult{};
  if (!status.ok()) result = status;
  std::unique_ptr<Sequence> owned;
  {
    absl::MutexLock lock(&mutex_);
    RefreshInfo(session);
    session.busy = false;
    session.last_use = clock_->Now();
    if (status.ok()) {
      result = CallResult{.usage = sequence.usage,
                          .timing = sequence.timing,
                          .reason = sequence.reason,
                          .session = session.info};
    }
    const CallId id = sequence.id;
    std::erase_if(state_.waiting, [id](const WaitingSequence& w) { return w.id == id; });
    std::erase_if(state_.prefills, [id](const ActivePrefill& p) { return p.id == id; });
    std::erase_if(state_.running, [id](const RunningDecode& r) { return r.id == id; });
    const auto it = sequences_.find(id);
    LEXICO_CHECK(it != sequences_.end());
    owned = std::move(it->second);
    sequences_.erase(it);
  }
  metrics_.OnFinished(result, owned->generate);
  const auto on_finished = std::move(owned->callbacks.on_finished);
  owned.reset();  // a dropped session's memory is free when its caller hears of it
  if (on_finished) on_finished(std::move(result));
}

void Engine::Impl::UpdateGauges(bool force) {
  const absl::Time now = clock_->Now();
  if (!force && now - last_gauges_ < kGaugeInterval) return;
  last_gauges_ = now;
  EngineLoad load;
  int n_busy = 0;
  {
    absl::MutexLock lock(&mutex_);
    load = LoadLocked();
    for (const auto& [id, session] : sessions_) n_busy += session->busy ? 1 : 0;
  }
  metrics_.SetLoad(load, n_busy);
}

}  // namespace lexico::worker

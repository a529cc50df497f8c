// What any thread may call: sessions, snapshots, and the hand-over of calls.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "proto/base/options.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "worker/engine/engine_impl.h"
#include "worker/engine/errors.h"

namespace lexico::worker {
namespace {

absl::Status Exhausted(const absl::Status& status) {
  return absl::IsResourceExhausted(status)
             ? WithReason(status, kReasonPagesExhausted, absl::Seconds(1))
             : status;
}

}  // namespace

absl::StatusOr<KvLayout> Engine::Impl::LayoutOf(const std::string& name) const {
  LEXICO_ASSIGN_OR_RETURN(const base::Profile profile, base::ParseProfile(name));
  LEXICO_RETURN_IF_ERROR(base::CheckProfile(profile, coding()));
  return MakeKvLayout(context_.shape, profile, n_atoms_);
}

absl::StatusOr<std::shared_ptr<Session>> Engine::Impl::FindIdle(
    const std::string& session_id) const {
  while (true) {
    const auto it = sessions_.find(session_id);
    if (it == sessions_.end()) {
      return absl::NotFoundError(fmt::format("no session {} on this worker", session_id));
    }
    if (it->second->busy) {
      return WithReason(
          absl::FailedPreconditionError(fmt::format(
              "session {} has a call running; wait for its end or cancel it", session_id)),
          kReasonSessionBusy);
    }
    if (!it->second->demoting) return it->second;
    if (stopping_) {
      return WithReason(absl::UnavailableError("the engine is stopping"), kReasonStopping);
    }
    demoted_.Wait(&mutex_);
  }
}

absl::Status Engine::Impl::CheckNew(const std::string& session_id) const {
  if (session_id.empty() || session_id.size() > base::kNameBytesMax) {
    return absl::InvalidArgumentError(fmt::format("session id has {} bytes, allowed are 1 to {}",
                                                  session_id.size(), base::kNameBytesMax));
  }
  if (!sessions_.contains(session_id)) return absl::OkStatus();
  return absl::AlreadyExistsError(
      fmt::format("session {} exists on this worker already", session_id));
}

void Engine::Impl::AddSession(SessionInfo info, std::unique_ptr<SessionKv> kv) {
  auto session = std::make_shared<Session>();
  session->id = info.session_id;
  session->kv = std::move(kv);
  session->last_use = clock_->Now();
  session->info = std::move(info);
  session->info.tenant = session->kv->scope().tenant;
  RefreshInfo(*session);
  sessions_.emplace(session->id, std::move(session));
}

void Engine::Impl::RefreshInfo(Session& session) {
  const SessionKv& kv = *session.kv;
  session.info.profile = kv.scope().profile;
  session.info.n_tokens = static_cast<int64_t>(kv.log().size());
  session.info.n_pending_tokens = static_cast<int64_t>(kv.pending().size());
  session.info.n_sealed_tokens = kv.n_sealed_tokens();
  session.info.memory = kv.memory();
  session.info.mean_error = kv.mean_error();
}

absl::Status Engine::Impl::OpenSession(const SessionSpec& spec) {
  LEXICO_ASSIGN_OR_RETURN(const KvLayout layout, LayoutOf(spec.profile));
  LEXICO_RETURN_IF_ERROR(CheckMinProfile(layout.profile, spec.min_profile));
  absl::MutexLock lock(&mutex_);
  while (true) {
    LEXICO_RETURN_IF_ERROR(CheckNew(spec.session_id));
    auto kv =
        SessionKv::Create(pool_.get(), layout, MakeChainScope(layout, identity_, spec.tenant));
    if (kv.ok()) {
      AddSession({.session_id = spec.session_id,
                  .birth_profile = layout.profile.name,
                  .min_profile = spec.min_profile},
                 std::move(*kv));
      return absl::OkStatus();
    }
    if (!absl::IsResourceExhausted(kv.status()) || !AwaitRoom()) return Exhausted(kv.status());
  }
}

absl::Status Engine::Impl::Fork(const std::string& session_id, const std::string& new_session_id) {
  absl::MutexLock lock(&mutex_);
  while (true) {
    LEXICO_ASSIGN_OR_RETURN(const std::shared_ptr<Session> session, FindIdle(session_id));
    LEXICO_RETURN_IF_ERROR(CheckNew(new_session_id));
    auto fork = session->kv->Fork();
    if (fork.ok()) {
      AddSession({.session_id = new_session_id,
                  .birth_profile = session->info.birth_profile,
                  .min_profile = session->info.min_profile},
                 std::move(*fork));
      return absl::OkStatus();
    }
    if (!absl::IsResourceExhausted(fork.status()) || !AwaitRoom()) return Exhausted(fork.status());
  }
}

absl::StatusOr<SessionInfo> Engine::Impl::Describe(const std::string& session_id) const {
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end()) {
    return absl::NotFoundError(fmt::format("no session {} on this worker", session_id));
  }
  SessionInfo info = it->second->info;
  info.busy = it->second->busy || it->second->demoting;
  return info;
}

std::vector<SessionInfo> Engine::Impl::List() const {
  absl::MutexLock lock(&mutex_);
  std::vector<SessionInfo> infos;
  for (const auto& [id, session] : sessions_) {
    infos.push_back(session->info);
    infos.back().busy = session->busy || session->demoting;
  }
  return infos;
}

absl::Status Engine::Impl::Drop(const std::string& session_id) {
  std::shared_ptr<Session> session;  // an idle one dies after the lock is gone
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end()) {
    return absl::NotFoundError(fmt::format("no session {} on this worker", session_id));
  }
  session = std::move(it->second);
  session->dropped = true;
  sessions_.erase(it);
  changed_ = true;
  wake_.Signal();
  return absl::OkStatus();
}

absl::StatusOr<SessionSnapshot> Engine::Impl::Export(const std::string& session_id,
                                                     bool with_window) const {
  std::optional<SessionExport> taken;
  SessionInfo info;
  {
    absl::MutexLock lock(&mutex_);
    LEXICO_ASSIGN_OR_RETURN(const std::shared_ptr<Session> session, FindIdle(session_id));
    taken.emplace(pool_.get(), *session->kv, with_window);
    info = session->info;
  }
  SessionSnapshot snapshot = taken->Finish();
  if (info.birth_profile != info.profile) snapshot.manifest.birth_profile = info.birth_profile;
  snapshot.manifest.min_profile = info.min_profile;
  return snapshot;
}

absl::StatusOr<std::unique_ptr<SessionImport>> Engine::Impl::BeginImport(
    const store::Manifest& manifest) {
  LEXICO_ASSIGN_OR_RETURN(const KvLayout layout, LayoutOf(manifest.profile));
  const auto n_tokens = static_cast<int64_t>(manifest.tokens.size());
  if (n_tokens > context_.config().max_positions) {
    return WithReason(
        absl::FailedPreconditionError(fmt::format("session has {} tokens, the model {} positions",
                                                  n_tokens, context_.config().max_positions)),
        kReasonContextFull);
  }
  for (const uint32_t id : manifest.tokens) {
    if (id < static_cast<uint32_t>(context_.config().vocab_size)) continue;
    return absl::DataLossError(fmt::format("manifest has token {}, the vocabulary ends at {}", id,
                                           context_.config().vocab_size - 1));
  }
  while (true) {
    auto import = SessionImport::Begin(pool_.get(), layout, identity_, manifest);
    if (import.ok()) return import;
    absl::MutexLock lock(&mutex_);
    if (!absl::IsResourceExhausted(import.status()) || !AwaitRoom()) {
      return Exhausted(import.status());
    }
  }
}

absl::StatusOr<SessionInfo> Engine::Impl::FinishImport(const std::string& session_id,
                                                       std::unique_ptr<SessionImport> import) {
  std::unique_ptr<SessionKv> kv = import->Finish().kv;  // waits for copies, so without the lock
  absl::MutexLock lock(&mutex_);
  LEXICO_RETURN_IF_ERROR(CheckNew(session_id));
  AddSession({.session_id = session_id,
              .birth_profile = import->birth_profile(),
              .min_profile = import->min_profile()},
             std::move(kv));
  return sessions_[session_id]->info;
}

absl::Status Engine::Impl::CheckIds(std::span<const int32_t> ids, const char* what) const {
  for (const int32_t id : ids) {
    if (id >= 0 && id < context_.config().vocab_size) continue;
    return absl::InvalidArgumentError(fmt::format("{} has token id {}, the vocabulary has 0 to {}",
                                                  what, id, context_.config().vocab_size - 1));
  }
  return absl::OkStatus();
}

absl::StatusOr<CallId> Engine::Impl::Append(AppendRequest request, CallCallbacks callbacks) {
  LEXICO_RETURN_IF_ERROR(CheckIds(request.ids, "appended text"));
  auto sequence = std::make_unique<Sequence>();
  sequence->ids = std::move(request.ids);
  sequence->deadline = request.deadline;
  sequence->callbacks = std::move(callbacks);
  return Submit(request.session_id, std::move(sequence));
}

absl::StatusOr<CallId> Engine::Impl::Generate(GenerateRequest request, CallCallbacks callbacks) {
  LEXICO_RETURN_IF_ERROR(request.sampling.Validate());
  LEXICO_RETURN_IF_ERROR(CheckIds(request.prompt_ids, "prompt"));
  LEXICO_RETURN_IF_ERROR(CheckIds(request.resume_ids, "resume_ids"));
  LEXICO_RETURN_IF_ERROR(CheckIds(request.closing_ids_after_end, "closing_ids_after_end"));
  LEXICO_RETURN_IF_ERROR(CheckIds(request.closing_ids_otherwise, "closing_ids_otherwise"));
  const auto n_resumed = static_cast<int64_t>(request.resume_ids.size());
  if (request.max_new_tokens <= n_resumed || request.max_new_tokens > base::kNewTokensMax) {
    return absl::InvalidArgumentError(
        fmt::format("max_new_tokens is {}, allowed are {} to {} with {} tokens resumed",
                    request.max_new_tokens, n_resumed + 1, base::kNewTokensMax, n_resumed));
  }
  auto sequence = std::make_unique<Sequence>();
  sequence->generate = true;
  sequence->ids = std::move(request.prompt_ids);
  sequence->ids.insert(sequence->ids.end(), request.resume_ids.begin(), request.resume_ids.end());
  sequence->next_index = n_resumed;
  sequence->deadline = request.deadline;
  sequence->callbacks = std::move(callbacks);
  std::string session_id = request.session_id;
  request.resume_ids = {};
  sequence->request = std::move(request);
  return Submit(session_id, std::move(sequence));
}

absl::Status Engine::Impl::CheckFits(const Session& session, Sequence& sequence) const {
  const SessionKv& kv = *session.kv;
  const auto n_log = static_cast<int64_t>(kv.log().size());
  const auto n_ids = static_cast<int64_t>(sequence.ids.size());
  const auto n_pending = static_cast<int64_t>(kv.pending().size());
  if (n_pending + n_ids == 0 && (!sequence.generate || n_log == 0)) {
    return absl::InvalidArgumentError(
        sequence.generate ? fmt::format("session {} is empty and so is the prompt", session.id)
                          : "no tokens to append");
  }
  // An answer needs a position for its first token too.
  const int64_t positions = context_.config().max_positions - (sequence.generate ? 1 : 0);
  if (n_log + n_ids > positions) {
    return WithReason(
        absl::FailedPreconditionError(fmt::format(
            "session {} has {} tokens and {} more were given, this model has {} positions{}",
            session.id, n_log, n_ids, context_.config().max_positions,
            sequence.generate ? ", one of them for the answer" : "")),
        kReasonContextFull);
  }
  const size_t work_bytes =
      PrefillRank::WorkBytes(context_, kv.n_tokens(), std::max<int64_t>(n_pending + n_ids, 1));
  if (work_bytes > context_.arena->bytes_max()) {
    return WithReason(
        absl::ResourceExhaustedError(fmt::format(
            "session {} with {} more tokens would need {} of prefill memory, the worker has {}; "
            "append less at once or raise --prefill_memory",
            session.id, n_pending + n_ids, base::HumanBytes(static_cast<double>(work_bytes)),
            base::HumanBytes(static_cast<double>(context_.arena->bytes_max())))),
        kReasonPagesExhausted);
  }
  const KvLayout& layout = kv.layout();
  const int64_t rows = kv.window_rows() + n_pending + n_ids;
  sequence.n_blocks_needed = (rows - layout.RowsKept(rows)) / layout.page.page_tokens;
  // Its pages, old and new, and two windows: its own and the fork's.
  const int64_t n_blocks = kv.n_pages() + sequence.n_blocks_needed;
  const int64_t windows_per_slab = pool_->BlocksPerSlab(layout.window_block_bytes());
  const int64_t window_slabs = (2 + windows_per_slab - 1) / windows_per_slab;
  const int64_t page_slabs = std::max<int64_t>(pool_->n_slabs() - window_slabs, 0);
  const int64_t n_blocks_max = page_slabs * pool_->BlocksPerSlab(layout.page_block_bytes());
  if (n_blocks <= n_blocks_max) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(fmt::format(
          "session {} would need {} blocks of pages ({}), the whole pool has {}; raise "
          "--kv_memory ({} now) or use a profile with fewer atoms",
          session.id, n_blocks, base::HumanBytes(static_cast<double>(layout.page_block_bytes())),
          n_blocks_max, base::HumanBytes(static_cast<double>(pool_->usage().total_bytes)))),
      kReasonPagesExhausted);
}

absl::StatusOr<CallId> Engine::Impl::Submit(const std::string& session_id,
                                            std::unique_ptr<Sequence> sequence) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    return WithReason(absl::UnavailableError("the engine is stopping"), kReasonStopping);
  }
  LEXICO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session, FindIdle(session_id));
  if (const absl::Status fits = CheckFits(*session, *sequence); !fits.ok()) {
    if (absl::IsResourceExhausted(fits)) metrics_.OnRejected(kReasonPagesExhausted);
    return fits;
  }
  if (state_.waiting.size() >= static_cast<size_t>(options_.waiting_max)) {
    metrics_.OnRejected(kReasonQueueFull);
    return WithReason(absl::ResourceExhaustedError(
                          fmt::format("{} calls wait already, at most {} may; try again later",
                                      state_.waiting.size(), options_.waiting_max)),
                      kReasonQueueFull, RetryAfter());
  }
  sequence->id = next_call_++;
  sequence->arrival = clock_->Now();
  session->busy = true;
  sequence->session = std::move(session);
  state_.waiting.push_back({.id = sequence->id, .arrival = sequence->arrival});
  const CallId id = sequence->id;
  sequences_.emplace(id, std::move(sequence));
  changed_ = true;
  wake_.Signal();
  return id;
}

// As long as the prefills that are running will take; between a second and a minute.
absl::Duration Engine::Impl::RetryAfter() const {
  int64_t slices = 0;
  for (const ActivePrefill& prefill : state_.prefills) slices += prefill.slices_left;
  return std::clamp(slices * kSliceTime, absl::Seconds(1), absl::Minutes(1));
}

void Engine::Impl::Cancel(CallId call) {
  absl::MutexLock lock(&mutex_);
  const auto it = sequences_.find(call);
  if (it == sequences_.end()) return;
  it->second->cancelled = true;
  changed_ = true;
  wake_.Signal();
}

EngineLoad Engine::Impl::load() const {
  absl::MutexLock lock(&mutex_);
  return LoadLocked();
}

EngineLoad Engine::Impl::LoadLocked() const {
  EngineLoad load;
  load.pool = pool_->usage();
  const size_t block_bytes = default_layout_.page_block_bytes();
  const int n_layers = default_layout_.shape.n_layers;
  load.n_pages_free = pool_->FreeBlocks(block_bytes) * n_layers;
  load.n_pages_demotable = DemotableBytes() / static_cast<int64_t>(block_bytes) * n_layers;
  load.n_pages = pool_->n_slabs() * pool_->BlocksPerSlab(block_bytes) * n_layers;
  load.n_running = static_cast<int>(state_.running.size() + state_.prefills.size());
  load.n_waiting = static_cast<int>(state_.waiting.size());
  load.n_waiting_max = options_.waiting_max;
  load.n_sessions = static_cast<int>(sessions_.size());
  for (const auto& [id, session] : sessions_) {
    const KvMemory& memory = session->info.memory;
    load.memory.code_bytes += memory.code_bytes;
    load.memory.window_bytes += memory.window_bytes;
    load.memory.bookkeeping_bytes += memory.bookkeeping_bytes;
    load.memory.fp16_equivalent_bytes += memory.fp16_equivalent_bytes;
  }
  return load;
}

}  // namespace lexico::worker

#include "worker/kv/ahead_coder.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "kernels/api/elementwise.h"
#include "proto/base/check.h"
#include "worker/kv/page_shards.h"

namespace lexico::worker {

AheadCoder::AheadCoder(std::vector<CoderOfRank> coders, kernels::RankTeam* team)
    : coders_(std::move(coders)), team_(team) {
  LEXICO_CHECK_EQ(std::ssize(coders_), team->size());
  if (coders_[0].beside == coders_[0].stream) return;
  background_ = std::thread([this] { Background(); });
}

AheadCoder::~AheadCoder() {
  if (!is_beside()) return;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  background_.join();
}

void AheadCoder::Background() {
  kernels::RankTeam team(team_->size());
  absl::MutexLock lock(&mutex_);
  while (true) {
    const auto has_work = [this]()
                              ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return work_ || stopping_; };
    mutex_.Await(absl::Condition(&has_work));
    if (stopping_) return;
    mutex_.Unlock();
    CodeAll(team);
    mutex_.Lock();
    work_ = false;
  }
}

void AheadCoder::Begin(std::span<SessionKv* const> sessions, int64_t step, int64_t batch_max) {
  LEXICO_CHECK(sessions_.empty());
  sessions_.assign(sessions.begin(), sessions.end());
  Plan(step, batch_max);
  if (!is_beside() || batches_.empty()) return;
  // Windows that the last Finish has shifted.
  for (const CoderOfRank& coder : coders_) coder.stream->Synchronize();
  absl::MutexLock lock(&mutex_);
  work_ = true;
}

// By profile and layer: which sessions.
void AheadCoder::Plan(int64_t step, int64_t batch_max) {
  std::map<std::pair<std::string, int>, std::vector<size_t>> due;
  for (size_t i = 0; i < sessions_.size(); ++i) {
    for (const int layer : sessions_[i]->LayersDue(step)) {
      due[{sessions_[i]->layout().profile.name, layer}].push_back(i);
    }
  }
  for (const auto& [key, members] : due) {
    for (size_t first = 0; first < members.size(); first += batch_max) {
      const size_t n = std::min<size_t>(batch_max, members.size() - first);
      batches_.push_back(
          {.layer = key.second, .members = {members.begin() + first, members.begin() + first + n}});
    }
  }
}

void AheadCoder::CodeAll(kernels::RankTeam& team) {
  std::vector<Batch> coded;
  for (Batch& batch : batches_) {
    Code(batch, team);
    if (batch.status.ok() || batch.members.size() == 1) {
      coded.push_back(std::move(batch));
      continue;
    }
    // Whose rows it was: each alone.
    for (const size_t i : batch.members) {
      Code(coded.emplace_back(Batch{.layer = batch.layer, .members = {i}}), team);
    }
  }
  batches_ = std::move(coded);
}

void AheadCoder::Code(Batch& batch, kernels::RankTeam& team) const {
  std::vector<absl::Status> coded(coders_.size());
  std::vector<std::vector<PageError>> errors(coders_.size(),
                                             std::vector<PageError>(batch.members.size()));
  team.Run([&](int rank) { coded[rank] = CodeOnRank(batch, rank, errors[rank]); });
  for (const absl::Status& status : coded) batch.status.Update(status);
  batch.errors.resize(batch.members.size());
  if (batch.status.ok()) JoinErrors(errors, batch.errors);
}

absl::Status AheadCoder::CodeOnRank(const Batch& batch, int rank,
                                    std::span<PageError> errors) const {
  const CoderOfRank& coder = coders_[rank];
  const KvLayout& layout = sessions_[batch.members[0]]->layout();
  const int64_t n_values = layout.seal_tokens() * layout.shape.row_dim();
  const auto n = std::ssize(batch.members);
  float* const rows = coder.scratch->Rows(2 * n * n_values, *coder.beside);
  std::vector<uint8_t*> blocks;
  for (int64_t i = 0; i < n; ++i) {
    const SessionKv& session = *sessions_[batch.members[i]];
    LEXICO_CHECK(session.ahead_block() != nullptr);  // ReserveRow has taken it
    blocks.push_back(session.pool().At(session.ahead_block(), rank));
    for (const bool value : {false, true}) {
      kernels::Convert(
          {session.window_row(batch.layer, value, 0, rank), layout.shape.cache_type, {n_values}},
          {rows + ((value ? n : 0) + i) * n_values, {n_values}}, *coder.beside);
    }
  }
  const LayerDictionaries none;
  return EncodePages(layout, layout.profile.has_atoms() ? coder.dictionaries[batch.layer] : none,
                     rows, rows + n * n_values, batch.layer, blocks, errors, *coder.beside,
                     *coder.scratch);
}

CodedAhead AheadCoder::Finish() {
  if (is_beside()) {
    const auto is_done = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !work_; };
    absl::MutexLock lock(&mutex_, absl::Condition(&is_done));
  } else {
    CodeAll(*team_);
  }
  CodedAhead result{.statuses = std::vector<absl::Status>(sessions_.size())};
  for (const Batch& batch : batches_) {
    const KvLayout& layout = sessions_[batch.members[0]]->layout();
    if (batch.status.ok() && !layout.profile.is_dense()) {
      result.n_vectors +=
          std::ssize(batch.members) * 2 * layout.seal_tokens() * layout.shape.model_kv_heads();
    }
    for (size_t i = 0; i < batch.members.size(); ++i) {
      result.statuses[batch.members[i]].Update(batch.status);
      if (batch.status.ok()) sessions_[batch.members[i]]->SetCoded(batch.layer, batch.errors[i]);
    }
  }
  SealFull(result.statuses);
  sessions_.clear();
  batches_.clear();
  return result;
}

void AheadCoder::SealFull(std::span<const absl::Status> statuses) const {
  std::vector<SessionKv*> full;
  for (size_t i = 0; i < sessions_.size(); ++i) {
    if (statuses[i].ok() && sessions_[i]->is_full()) full.push_back(sessions_[i]);
  }
  if (full.empty()) return;
  team_->Run([&](int rank) {
    for (const SessionKv* session : full) session->ShiftWindow(rank, *coders_[rank].stream);
  });
  for (SessionKv* session : full) session->Seal();
}

}  // namespace lexico::worker

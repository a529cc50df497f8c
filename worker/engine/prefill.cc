#include "worker/engine/prefill.h"

#include <algorithm>
#include <cmath>

#include "proto/base/check.h"
#include "proto/base/status.h"
#include "worker/kv/page_shards.h"

namespace lexico::worker {
namespace {

// Batches half or double towards kSliceTime.
int64_t AdaptBatch(int64_t batch, absl::Duration took) {
  if (took > 2 * kSliceTime) return std::max<int64_t>(batch / 2, 1);
  if (took < kSliceTime / 2) return std::min<int64_t>(batch * 2, 1024);
  return batch;
}

}  // namespace

bool PrefillJob::HasWorkMemory(const ForwardContext& context, const SessionKv& kv, int64_t n_new) {
  const int64_t n_rows = std::max<int64_t>(1, std::ssize(kv.pending()) + n_new);
  return context.arena->Fits(
      PrefillRank::WorkBytes(context, RowsOfPrefill(kv, n_rows).n_history_rows, n_rows));
}

absl::StatusOr<std::unique_ptr<PrefillJob>> PrefillJob::Create(ForwardRanks* ranks,
                                                               std::unique_ptr<SessionKv> fork,
                                                               bool need_logits) {
  const auto n_rows = static_cast<int64_t>(fork->pending().size());
  LEXICO_CHECK_GT(n_rows, int64_t{0});
  if (const absl::Status reserved = fork->ReservePages(n_rows); !reserved.ok()) return reserved;
  std::unique_ptr<PrefillJob> job(new PrefillJob(ranks, std::move(fork), need_logits));
  const absl::Status begun =
      job->RunRanks([&](PrefillRank& rank) { return rank.Begin(*job->kv_); });
  if (!begun.ok()) return begun;
  job->BeginLayer();
  return job;
}

PrefillJob::PrefillJob(ForwardRanks* ranks, std::unique_ptr<SessionKv> fork, bool need_logits)
    : ranks_(ranks),
      context_(ranks->first()),
      kv_(std::move(fork)),
      need_logits_(need_logits),
      rows_(RowsOfPrefill(*kv_, static_cast<int64_t>(kv_->pending().size()))),
      // A device takes as many pages as it can at once, a CPU those of a slice.
      coding_batch_(context_.on_device() ? context_.batch_pages_max() : 4) {
  for (int rank = 0; rank < ranks->size(); ++rank) {
    work_.push_back(std::make_unique<PrefillRank>(&(*ranks)[rank], rows_));
  }
}

absl::Status PrefillJob::RunRanks(absl::FunctionRef<absl::Status(PrefillRank&)> work) {
  std::vector<absl::Status> statuses(work_.size());
  ranks_->Run([&](int rank) { statuses[rank] = work(*work_[rank]); });
  for (const absl::Status& status : statuses) LEXICO_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

void PrefillJob::BeginLayer() {
  phase_ = rows_.n_history_rows > 0 ? Phase::kHistory : Phase::kInputs;
  history_pages_ = 0;
  row_ = 0;
  attended_ = 0;
  coded_pages_ = 0;
  coding_begun_ = false;
}

int64_t PrefillJob::block_rows() const {
  return std::clamp<int64_t>(rows_.n_rows - row_, 1, context_.transformer->row_block());
}

absl::Status PrefillJob::RunSlice() {
  LEXICO_CHECK(!done());
  double work = 0;
  do {
    work += PhaseWork();
    RunPhase();
  } while (!done() && work + PhaseWork() <= 1);
  LEXICO_RETURN_IF_ERROR(RunRanks([&](PrefillRank& rank) { return rank.FinishSlice(*kv_); }));
  return done() ? FinishCoding() : absl::OkStatus();
}

double PrefillJob::PhaseWork() const {
  const auto rows = static_cast<double>(block_rows());
  const double share = rows / static_cast<double>(context_.transformer->row_block());
  switch (phase_) {
    case Phase::kHistory:
      return !rows_.direct && kv_->n_pages() > 0 ? 1 : share;
    // On a device a block is a slice: the host waits once for it, and not for what is coded beside.
    case Phase::kInputs:
      return context_.on_device() ? share / 4 : share;
    case Phase::kAttention:
      return std::max(context_.on_device() ? share * 3 / 4 : share,
                      std::min(1.0, AttentionFlop() * rows / slice_flop()));
    case Phase::kCoding:
      if (context_.on_device()) return 0;
      return kv_->n_reserved_pages() > 0 ? 1 : share;
  }
  LEXICO_UNREACHABLE();
}

// Of one row of the block.
double PrefillJob::AttentionFlop() const {
  const ModelConfig& config = context_.config();
  const int64_t n_pages_rows = rows_.direct ? kv_->n_sealed_tokens() : 0;
  const auto keys = static_cast<double>(n_pages_rows + rows_.n_history_rows + row_ + block_rows());
  return 4.0 * config.head_dim * config.n_heads * keys;
}

double PrefillJob::slice_flop() const {
  return context_.on_device() ? kDeviceSliceFlop : kSliceFlop;
}

void PrefillJob::RunPhase() {
  switch (phase_) {
    case Phase::kHistory:
      return RunHistory();
    case Phase::kInputs:
      return RunInputs();
    case Phase::kAttention:
      return RunAttention();
    case Phase::kCoding:
      return RunCoding();
  }
  LEXICO_UNREACHABLE();
}

void PrefillJob::RunHistory() {
  const absl::Time begin = context_.clock->Now();
  const int64_t n_pages = rows_.direct ? 0 : kv_->n_pages();
  const int64_t batch =
      std::min({history_batch_, context_.batch_pages_max(), n_pages - history_pages_});
  if (batch > 0) {
    ranks_->Run([&](int rank) { work_[rank]->RebuildPages(*kv_, layer_, history_pages_, batch); });
    history_pages_ += batch;
    history_batch_ = AdaptBatch(batch, context_.clock->Now() - begin);
  }
  if (history_pages_ == n_pages) {
    ranks_->Run([&](int rank) { work_[rank]->KeepWindow(*kv_, layer_); });
    phase_ = Phase::kInputs;
  }
  history_time_ += context_.clock->Now() - begin;
}

void PrefillJob::RunInputs() {
  const int64_t rows = block_rows();
  ranks_->Run([&](int rank) { work_[rank]->Inputs(layer_, row_, rows); });
  attended_ = 0;
  phase_ = Phase::kAttention;
  // Of the last layer only the last token's attention is used, for its logits.
  if (is_last_layer()) {
    const bool last_block = row_ + rows == rows_.n_rows;
    attended_ = last_block && need_logits_ ? rows - 1 : rows;
  }
  if (attended_ == rows) FinishBlock();
}

void PrefillJob::RunAttention() {
  const int64_t rows = block_rows();
  const auto blocks = static_cast<int64_t>(slice_flop() / AttentionFlop()) / kQueryBlock;
  const int64_t count = std::min(rows - attended_, std::max<int64_t>(blocks, 1) * kQueryBlock);
  const bool whole = attended_ + count == rows;
  ranks_->Run([&](int rank) {
    work_[rank]->Attend(*kv_, layer_, attended_, count);
    if (whole) work_[rank]->Outputs(layer_, is_last_layer() ? rows - 1 : 0);
  });
  attended_ += count;
  if (whole) FinishBlock();
}

void PrefillJob::FinishBlock() {
  row_ += block_rows();
  phase_ = row_ < rows_.n_rows ? Phase::kInputs : Phase::kCoding;
  if (!context_.on_device()) return;
  // Beside the blocks to come, as soon as there are rows for a whole batch.
  const int64_t n_ready = (rows_.n_window_rows + row_) / kv_->layout().page.page_tokens;
  while (coded_pages_ + coding_batch_ <= std::min(n_ready, kv_->n_reserved_pages())) {
    BeginCoding();
    CodePages(coding_batch_);
  }
}

void PrefillJob::BeginCoding() {
  if (!coding_begun_) ranks_->Run([&](int rank) { work_[rank]->BeginCoding(*kv_, layer_); });
  coding_begun_ = true;
}

// On a device enqueued only; on a CPU a slice prepares dictionaries, others code.
void PrefillJob::RunCoding() {
  const KvLayout& layout = kv_->layout();
  const int64_t n_pages = kv_->n_reserved_pages();
  const int64_t batch =
      std::min({coding_batch_, context_.batch_pages_max(), n_pages - coded_pages_});
  if (batch > 0) {
    const absl::Time begin = context_.clock->Now();
    const bool prepares = !coding_begun_ && !layout.profile.is_dense();
    BeginCoding();
    if (!prepares || context_.on_device()) CodePages(batch);
    const absl::Duration took = context_.clock->Now() - begin;
    if (!layout.profile.is_dense()) coding_time_ += took;
    if (!context_.on_device() && !prepares) coding_batch_ = AdaptBatch(batch, took);
  }
  if (coded_pages_ < n_pages) return;
  const int64_t n_sealed = n_pages * layout.page.page_tokens;
  ranks_->Run([&](int rank) { work_[rank]->EndLayer(*kv_, layer_, n_sealed); });
  ++layer_;
  BeginLayer();
}

void PrefillJob::CodePages(int64_t n_pages) {
  ranks_->Run([&](int rank) { work_[rank]->Code(*kv_, layer_, coded_pages_, n_pages); });
  coded_pages_ += n_pages;
  const KvLayout& layout = kv_->layout();
  if (layout.profile.is_dense()) return;
  n_coded_vectors_ += n_pages * 2 * layout.page.page_tokens * layout.shape.model_kv_heads();
}

// What is left of the coding beside is waited for, and what all of it found comes back.
absl::Status PrefillJob::FinishCoding() {
  const absl::Time begin = context_.clock->Now();
  const int n_layers = context_.shape.n_layers;
  std::vector<std::vector<PageError>> errors(
      work_.size(), std::vector<PageError>(n_layers * kv_->n_reserved_pages()));
  std::vector<absl::Status> statuses(work_.size());
  ranks_->Run([&](int rank) { statuses[rank] = work_[rank]->FinishCoding(*kv_, errors[rank]); });
  for (const absl::Status& status : statuses) LEXICO_RETURN_IF_ERROR(status);
  JoinErrors(errors, kv_->reserved_errors());
  if (!kv_->layout().profile.is_dense()) coding_time_ += context_.clock->Now() - begin;
  return absl::OkStatus();
}

double PrefillJob::fraction() const {
  const int64_t n_pages = std::max<int64_t>(kv_->n_reserved_pages(), 1);
  // Of a layer's work coding is about a quarter; exactness does not matter to a progress bar.
  const double within = 0.75 * static_cast<double>(row_) / static_cast<double>(rows_.n_rows) +
                        0.25 * static_cast<double>(coded_pages_) / static_cast<double>(n_pages);
  return (layer_ + within) / context_.shape.n_layers;
}

int64_t PrefillJob::slices_left() const {
  const int64_t row_block = context_.transformer->row_block();
  const int64_t blocks = (rows_.n_rows + row_block - 1) / row_block;
  const double layers = context_.shape.n_layers * (1 - fraction());
  // Several phases of a short prompt are one slice.
  const double share =
      std::min(1.0, static_cast<double>(rows_.n_rows) / static_cast<double>(row_block));
  const int64_t slices = context_.on_device() ? blocks : 2 * blocks + 1;
  return static_cast<int64_t>(std::ceil(layers * share * static_cast<double>(slices)));
}

void PrefillJob::Logits(float* logits) {
  LEXICO_CHECK(done() && need_logits_);
  ranks_->Run([&](int rank) {
    const float* const from = work_[rank]->Logits();
    if (rank > 0) return;
    context_.stream.Download(logits, from, context_.config().vocab_size * sizeof(float));
  });
}

std::optional<KvKind> PrefillJob::non_finite() const {
  for (const auto& rank : work_) {
    if (rank->non_finite().has_value()) return rank->non_finite();
  }
  return std::nullopt;
}

std::unique_ptr<SessionKv> PrefillJob::Commit() {
  LEXICO_CHECK(done());
  kv_->CommitPrefill(rows_.n_rows);
  return std::move(kv_);
}

}  // namespace lexico::worker

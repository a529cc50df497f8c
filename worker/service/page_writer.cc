#include "worker/service/page_writer.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/time/clock.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"
#include "worker/engine/errors.h"
#include "worker/kv/payload_reader.h"

namespace lexico::worker {
namespace {

constexpr size_t kBatchPages = 256;
constexpr absl::Duration kPutTimeout = absl::Seconds(30);
constexpr absl::Duration kBackoffMin = absl::Milliseconds(200);
constexpr absl::Duration kBackoffMax = absl::Seconds(5);
// A session that is busy or newly cancelled is looked at again after this.
constexpr absl::Duration kSyncRetry = absl::Seconds(1);
// A sync that the store refuses is tried again less and less often, up to this.
constexpr absl::Duration kSyncRetryMax = absl::Minutes(1);
// A batch that fails is sent again as a whole: what of it may have been in vain.
constexpr size_t kBatchBytes = 16u << 20;

bool IsOutOfReach(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}
// A full store refuses everybody's pages, for a while; anything else is about these pages.
bool IsAboutThePages(const absl::Status& status) {
  return !status.ok() && !IsOutOfReach(status) && !absl::IsResourceExhausted(status);
}

size_t BytesOf(const PageExport& page) { return page.header.shape.payload_bytes(); }

}  // namespace

absl::Status PutPages(store::Client& client, std::span<const PageExport* const> pages,
                      absl::Time deadline) {
  for (PayloadReader reader(pages, kBatchPages); reader.Next();) {
    std::vector<store::PageOut> out;
    out.reserve(reader.pages().size());
    for (const PageExport* page : reader.pages()) {
      const std::span<const uint8_t> payload = reader.payload(out.size());
      out.push_back({store::EncodeHeader(page->header, payload), payload});
    }
    LEXICO_RETURN_IF_ERROR(client.PutPages(out, deadline));
  }
  return absl::OkStatus();
}

PageWriter::PageWriter(store::Client* client, base::Metrics* metrics, size_t queue_bytes_max)
    : client_(client),
      queue_bytes_max_(queue_bytes_max),
      behind_gauge_(metrics->Gauge("lexico_pages_behind")) {}

PageWriter::~PageWriter() { Stop(); }

void PageWriter::Start(Sync sync) {
  sync_ = std::move(sync);
  thread_ = std::thread([this] { Run(); });
}

void PageWriter::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    is_stopping_ = true;
    changed_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
  absl::MutexLock lock(&mutex_);
  queue_.clear();
  queue_bytes_ = 0;
  late_.clear();
  n_late_pages_ = 0;
  Report();
}

void PageWriter::Push(const std::string& session_id, std::vector<PageExport> pages) {
  std::vector<Entry> dropped;  // released outside the lock
  absl::MutexLock lock(&mutex_);
  if (is_stopping_) return;
  for (PageExport& page : pages) {
    queue_bytes_ += BytesOf(page);
    queue_.push_back({session_id, std::move(page)});
  }
  while (queue_bytes_ > queue_bytes_max_ && queue_.size() > 1) {
    queue_bytes_ -= BytesOf(queue_.front().page);
    LeaveToSync(queue_.front().session_id, 1);
    dropped.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  if (!dropped.empty()) {
    spdlog::warn("store is behind: {} pages left the queue ({} MiB), to be synced later",
                 dropped.size(), queue_bytes_max_ >> 20);
  }
  Report();
  changed_.SignalAll();
}

void PageWriter::SyncLater(const std::string& session_id, absl::Time when) {
  absl::MutexLock lock(&mutex_);
  LateOf(session_id, when).when = when;
  changed_.SignalAll();
}

int64_t PageWriter::pages_behind() const {
  absl::MutexLock lock(&mutex_);
  return Behind();
}

int64_t PageWriter::Behind() const {
  return static_cast<int64_t>(queue_.size()) + n_in_flight_ + n_late_pages_;
}

void PageWriter::Report() { behind_gauge_.Set(static_cast<double>(Behind())); }

void PageWriter::Pause::Grow() {
  next = std::clamp(next * 2, kBackoffMin, kBackoffMax);
  until = absl::Now() + next;
}

PageWriter::Late& PageWriter::LateOf(const std::string& session_id, absl::Time when) {
  return late_.try_emplace(session_id, Late{.when = when, .backoff = kSyncRetry}).first->second;
}

void PageWriter::LeaveToSync(const std::string& session_id, int64_t n_pages) {
  LateOf(session_id, absl::Now() + kSyncRetry).n_pages += n_pages;
  n_late_pages_ += n_pages;
}

// -- The queue
// -------------------------------------------------------------------------------------------

std::vector<PageWriter::Entry> PageWriter::TakeBatch() {
  std::vector<Entry> batch;
  absl::MutexLock lock(&mutex_);
  if (absl::Now() < queue_pause_.until) return batch;
  size_t bytes = 0;
  while (!queue_.empty() && batch.size() < kBatchPages && bytes < kBatchBytes) {
    bytes += BytesOf(queue_.front().page);
    batch.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  queue_bytes_ -= bytes;
  n_in_flight_ = static_cast<int64_t>(batch.size());
  return batch;
}

absl::Status PageWriter::Put(const std::vector<Entry>& entries) {
  std::vector<const PageExport*> pages;
  for (const Entry& entry : entries) pages.push_back(&entry.page);
  return PutPages(*client_, pages, absl::Now() + kPutTimeout);
}

void PageWriter::WriteBatch() {
  std::vector<Entry> batch = TakeBatch();
  if (batch.empty()) return;
  absl::Status status = Put(batch);
  if (IsAboutThePages(status)) status = PutApart(&batch);
  absl::MutexLock lock(&mutex_);
  n_in_flight_ = 0;
  if (status.ok()) {
    queue_pause_.End();
  } else {
    spdlog::warn("{} pages not stored yet: {}", batch.size(), std::string(status.message()));
    for (auto it = batch.rbegin(); it != batch.rend(); ++it) {
      queue_bytes_ += BytesOf(it->page);
      queue_.push_front(std::move(*it));
    }
    queue_pause_.Grow();
  }
  Report();
}

absl::Status PageWriter::PutApart(std::vector<Entry>* batch) {
  std::map<std::string, std::vector<Entry>> by_session;
  for (Entry& entry : *batch) by_session[entry.session_id].push_back(std::move(entry));
  batch->clear();
  absl::Status again;
  for (auto& [session_id, entries] : by_session) {
    const absl::Status status = again.ok() ? Put(entries) : again;
    if (status.ok()) continue;
    if (!IsAboutThePages(status)) {
      again = status;
      std::move(entries.begin(), entries.end(), std::back_inserter(*batch));
      continue;
    }
    const auto n_pages = static_cast<int64_t>(entries.size());
    absl::MutexLock lock(&mutex_);
    LeaveToSync(session_id, n_pages);
    n_in_flight_ -= n_pages;
    Late& late = late_.at(session_id);
    if (std::exchange(late.is_reported, true)) continue;
    spdlog::warn("session {}: the store refuses {} pages, to be synced later: {}", session_id,
                 n_pages, std::string(status.message()));
  }
  return again;
}

// -- Syncs
// -------------------------------------------------------------------------------------------

void PageWriter::RunSync() {
  std::string session_id;
  Late late;
  {
    absl::MutexLock lock(&mutex_);
    const absl::Time now = absl::Now();
    const auto due = std::min_element(late_.begin(), late_.end(), [](const auto& a, const auto& b) {
      return a.second.when < b.second.when;
    });
    if (is_stopping_ || due == late_.end() || due->second.when > now || now < sync_pause_.until) {
      return;
    }
    session_id = due->first;
    late = due->second;
    late_.erase(due);
  }
  const absl::Status status = sync_(session_id);
  absl::MutexLock lock(&mutex_);
  if (is_stopping_) return;
  if (!IsOutOfReach(status)) sync_pause_.End();
  if (status.ok() || absl::IsNotFound(status) || absl::IsAborted(status)) {
    n_late_pages_ -= late.n_pages;
    Report();
    return;
  }
  Reschedule(session_id, late, status);
}

void PageWriter::Reschedule(const std::string& session_id, Late late, const absl::Status& why) {
  late.when = absl::Now();
  if (IsOutOfReach(why)) {
    sync_pause_.Grow();
  } else if (rpc::ReasonOf(why) == kReasonSessionBusy) {
    late.when += kSyncRetry;
  } else {
    late.when += late.backoff;
    late.backoff = std::min(late.backoff * 2, kSyncRetryMax);
    if (!std::exchange(late.is_reported, true)) {
      spdlog::warn("session {} is not in the store yet: {}", session_id,
                   std::string(why.message()));
    }
  }
  const auto [it, is_new] = late_.try_emplace(session_id, late);
  if (is_new) return;
  // Asked for again meanwhile: that time holds.
  it->second.n_pages += late.n_pages;
  it->second.backoff = late.backoff;
  it->second.is_reported = late.is_reported;
}

bool PageWriter::WaitForWork() {
  absl::MutexLock lock(&mutex_);
  while (!is_stopping_) {
    absl::Time wake = queue_.empty() ? absl::InfiniteFuture() : queue_pause_.until;
    for (const auto& [id, late] : late_) {
      wake = std::min(wake, std::max(late.when, sync_pause_.until));
    }
    if (wake <= absl::Now()) return true;
    changed_.WaitWithDeadline(&mutex_, wake);
  }
  return false;
}

void PageWriter::Run() {
  while (WaitForWork()) {
    WriteBatch();
    RunSync();
  }
}

}  // namespace lexico::worker

#include "worker/service/page_writer.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "proto/base/status.h"

namespace lexico::worker {
namespace {

constexpr size_t kBatchPages = 256;
constexpr absl::Duration kPutTimeout = absl::Seconds(30);
constexpr absl::Duration kBackoffMin = absl::Milliseconds(200);
constexpr absl::Duration kBackoffMax = absl::Seconds(5);
// A session that is busy or newly cancelled is looked at again after this.
constexpr absl::Duration kSyncRetry = absl::Seconds(1);

size_t BytesOf(const PageExport& page) { return page.header.shape.payload_bytes(); }

}  // namespace

absl::Status PutPages(store::Client& client, std::span<const PageExport* const> pages,
                      absl::Time deadline) {
  for (size_t begin = 0; begin < pages.size(); begin += kBatchPages) {
    const auto batch = pages.subspan(begin, std::min(kBatchPages, pages.size() - begin));
    std::vector<store::PageOut> out;
    out.reserve(batch.size());
    for (const PageExport* page : batch) {
      out.push_back({store::EncodeHeader(page->header, page->payload()), page->payload()});
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
  syncs_.clear();
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
    syncs_.try_emplace(queue_.front().session_id, absl::Now() + kSyncRetry);
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
  syncs_[session_id] = when;
  changed_.SignalAll();
}

int64_t PageWriter::pages_behind() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(queue_.size()) + n_in_flight_;
}

void PageWriter::Report() {
  behind_gauge_.Set(static_cast<double>(static_cast<int64_t>(queue_.size()) + n_in_flight_));
}

bool PageWriter::WriteBatch() {
  std::vector<Entry> batch;
  {
    absl::MutexLock lock(&mutex_);
    while (!queue_.empty() && batch.size() < kBatchPages) {
      queue_bytes_ -= BytesOf(queue_.front().page);
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    n_in_flight_ = static_cast<int64_t>(batch.size());
  }
  if (batch.empty()) return true;
  std::vector<const PageExport*> pages;
  for (const Entry& entry : batch) pages.push_back(&entry.page);
  const absl::Status status = PutPages(*client_, pages, absl::Now() + kPutTimeout);
  absl::MutexLock lock(&mutex_);
  n_in_flight_ = 0;
  if (!status.ok()) {
    spdlog::warn("{} pages not stored yet: {}", batch.size(), std::string(status.message()));
    for (auto it = batch.rbegin(); it != batch.rend(); ++it) {
      queue_bytes_ += BytesOf(it->page);
      queue_.push_front(std::move(*it));
    }
  }
  Report();
  return status.ok();
}

bool PageWriter::RunSyncs() {
  while (true) {
    std::string session_id;
    {
      absl::MutexLock lock(&mutex_);
      if (is_stopping_) return true;
      const absl::Time now = absl::Now();
      const auto due = std::find_if(syncs_.begin(), syncs_.end(),
                                    [&](const auto& entry) { return entry.second <= now; });
      if (due == syncs_.end()) return true;
      session_id = due->first;
      syncs_.erase(due);
    }
    const absl::Status status = sync_(session_id);
    if (status.ok() || absl::IsNotFound(status) || absl::IsAborted(status)) continue;
    absl::MutexLock lock(&mutex_);
    syncs_.try_emplace(session_id, absl::Now() + kSyncRetry);
    if (!absl::IsFailedPrecondition(status)) return false;
  }
}

void PageWriter::Run() {
  absl::Duration backoff = kBackoffMin;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      while (!is_stopping_ && queue_.empty()) {
        absl::Time wake = absl::InfiniteFuture();
        for (const auto& [id, when] : syncs_) wake = std::min(wake, when);
        if (wake <= absl::Now()) break;
        changed_.WaitWithDeadline(&mutex_, wake);
      }
      if (is_stopping_) return;
    }
    const bool written = WriteBatch() && RunSyncs();
    if (written) {
      backoff = kBackoffMin;
      continue;
    }
    absl::MutexLock lock(&mutex_);
    const absl::Time until = absl::Now() + backoff;
    while (!is_stopping_ && absl::Now() < until) changed_.WaitWithDeadline(&mutex_, until);
    backoff = std::min(backoff * 2, kBackoffMax);
  }
}

}  // namespace lexico::worker

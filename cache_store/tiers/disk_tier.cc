#include "cache_store/tiers/disk_tier.h"

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/container/flat_hash_set.h"
#include "cache_store/format/page.h"
#include "proto/base/log.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

// Of one group of batches: what one fdatasync writes is also what a failure takes back.
constexpr uint64_t kGroupBytesMax = 32u << 20;
// Moved at once by a reclaim.
constexpr uint64_t kMoveBytesMax = 8u << 20;

uint64_t SegmentBytes(const DiskTierOptions& options) {
  if (options.segment_bytes != 0) return options.segment_bytes;
  return std::clamp<uint64_t>(options.bytes_max / 32, 1u << 20, 256u << 20);
}

uint64_t PagesBytes(std::span<const NamedPage> pages) {
  uint64_t bytes = 0;
  for (const NamedPage& named : pages) bytes += RecordBytes(named.page->size());
  return bytes;
}

}  // namespace

DiskTier::DiskTier(const DiskTierOptions& options)
    : options_(options),
      segments_dir_(options.dir + "/segments"),
      segment_bytes_(SegmentBytes(options)),
      live_bytes_max_(options.bytes_max / 4 * 3),
      // A reclaim appends what it moves before the old segment goes.
      file_bytes_max_(options.bytes_max - std::min(options.bytes_max / 8, segment_bytes_)) {}

DiskTier::~DiskTier() {
  index_.reset();
  if (lock_fd_ >= 0) close(lock_fd_);
}

absl::Status DiskTier::Put(std::span<const NamedPage> pages, absl::Time now) {
  Batch batch{pages, now};
  std::vector<Batch*> group;
  {
    absl::MutexLock lock(&queue_mutex_);
    queue_.push_back(&batch);
    const auto my_turn = [&] {
      queue_mutex_.AssertReaderHeld();
      return batch.done || queue_.front() == &batch;
    };
    queue_mutex_.Await(absl::Condition(&my_turn));
    if (batch.done) return batch.status;
    uint64_t bytes = 0;
    for (Batch* waiting : queue_) {
      bytes += PagesBytes(waiting->pages);
      if (!group.empty() && bytes > kGroupBytesMax) break;
      group.push_back(waiting);
    }
  }
  CommitGroup(group);
  absl::MutexLock lock(&queue_mutex_);
  for (Batch* committed : group) {
    queue_.pop_front();
    committed->done = true;
  }
  return batch.status;
}

void DiskTier::CommitGroup(std::span<Batch* const> group) {
  std::vector<NamedPage> pages;
  for (const Batch* batch : group) {
    pages.insert(pages.end(), batch->pages.begin(), batch->pages.end());
  }
  absl::Status status = CommitPages(pages, group.front()->now);
  if (group.size() == 1 || !absl::IsResourceExhausted(status)) {
    for (Batch* batch : group) batch->status = status;
    return;
  }
  // Not all fit; some may.
  for (Batch* batch : group) batch->status = CommitPages(batch->pages, batch->now);
}

absl::Status DiskTier::CommitPages(std::span<const NamedPage> pages, absl::Time now) {
  std::vector<NamedPage> fresh;
  {
    absl::MutexLock lock(&mutex_);
    absl::flat_hash_set<PageKey> seen;
    for (const NamedPage& named : pages) {
      if (table_.order().Touch(named.key, now)) continue;
      if (seen.insert(named.key).second) fresh.push_back(named);
    }
  }
  if (fresh.empty()) return absl::OkStatus();
  LEXICO_RETURN_IF_ERROR(MakeRoom(PagesBytes(fresh), now));
  std::vector<Location> locations;
  LEXICO_RETURN_IF_ERROR(AppendDurably(fresh, &locations));
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < fresh.size(); ++i) table_.AddPage(fresh[i].key, locations[i], now);
  return absl::OkStatus();
}

absl::Status DiskTier::AppendDurably(std::span<const NamedPage> pages,
                                     std::vector<Location>* locations) {
  if (active_ == nullptr || active_->size() >= segment_bytes_) LEXICO_RETURN_IF_ERROR(Roll());
  const uint64_t start = active_->size();
  absl::Status status = active_->Append(pages, locations);
  bool trusted = true;
  if (status.ok()) {
    status = active_->Sync();
    // After a failed sync the kernel may have dropped what it could not write, and would say OK the
    // next time: nothing more is appended to such a file.
    trusted = status.ok();
  }
  if (status.ok()) {
    IndexChange change;
    for (size_t i = 0; i < pages.size(); ++i) {
      change.added.push_back({pages[i].key, (*locations)[i]});
    }
    status = index_->Apply(change, /*sync=*/false);
  }
  if (status.ok()) {
    absl::MutexLock lock(&mutex_);
    table_.SetLength(active_->id(), active_->size());
    return status;
  }
  const absl::Status truncated = active_->Truncate(start);
  if (!trusted || !truncated.ok()) SealActive(start);
  return base::Annotate(
      status, fmt::format("cannot store {} pages of {} bytes", pages.size(), PagesBytes(pages)));
}

absl::Status DiskTier::Roll() {
  if (active_ != nullptr) SealActive(active_->size());
  uint64_t id = 0;
  {
    absl::MutexLock lock(&mutex_);
    id = table_.last_id() + 1;
  }
  LEXICO_ASSIGN_OR_RETURN(active_, SegmentFile::Create(segments_dir_, id, options_.faults));
  absl::MutexLock lock(&mutex_);
  table_.AddSegment(active_, /*sealed=*/false);
  return absl::OkStatus();
}

void DiskTier::SealActive(uint64_t length) {
  IndexChange change;
  change.sealed_segments.emplace_back(active_->id(), length);
  if (const absl::Status status = index_->Apply(change, /*sync=*/true); !status.ok()) {
    // Costs a scan at the next start, nothing else.
    spdlog::warn("segment {} is not marked as sealed: {}", active_->path(),
                 std::string(status.message()));
  }
  absl::MutexLock lock(&mutex_);
  table_.Seal(active_->id(), length);
  active_ = nullptr;
}

absl::Status DiskTier::MakeRoom(uint64_t bytes, absl::Time now) {
  LEXICO_RETURN_IF_ERROR(Evict(bytes, now));
  DeleteDeadSegments();
  while (true) {
    std::optional<uint64_t> most_dead;
    {
      absl::MutexLock lock(&mutex_);
      if (table_.file_bytes() + bytes <= file_bytes_max_) break;
      most_dead = table_.MostDead();
    }
    if (most_dead.has_value()) {
      LEXICO_RETURN_IF_ERROR(Reclaim(*most_dead));
    } else if (active_ != nullptr && active_->size() > kSegmentHeaderBytes) {
      // What is dead lies in the segment being written.
      LEXICO_RETURN_IF_ERROR(Roll());
      absl::MutexLock lock(&mutex_);
      if (!table_.MostDead().has_value()) break;
    } else {
      break;
    }
  }
  return CheckFreeSpace(bytes);
}

absl::Status DiskTier::Evict(uint64_t bytes, absl::Time now) {
  IndexChange change;
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    while (table_.live_bytes() + bytes > live_bytes_max_) {
      const auto victim = table_.order().Victim(now, /*last_tier=*/true);
      if (!victim.has_value()) {
        status = absl::ResourceExhaustedError(fmt::format(
            "disk tier is full: {} bytes are wanted, {} of {} are in use, {} of them by pages of "
            "sessions; delete sessions or raise --disk_bytes (a quarter of it is room for "
            "reclaiming)",
            bytes, table_.live_bytes(), live_bytes_max_, table_.order().claimed_bytes()));
        break;
      }
      table_.RemovePage(*victim);
      ++n_evictions_;
      change.removed.push_back(*victim);
    }
  }
  // A failure leaves rows of pages that are gone from memory; a restart brings those pages back.
  LEXICO_RETURN_IF_ERROR(index_->Apply(change, /*sync=*/false));
  return status;
}

void DiskTier::DeleteDeadSegments() {
  std::vector<std::shared_ptr<SegmentFile>> files;
  IndexChange change;
  {
    absl::MutexLock lock(&mutex_);
    change.deleted_segments = table_.Dead();
    for (const uint64_t id : change.deleted_segments) {
      files.push_back(table_.File(id));
      table_.RemoveSegment(id);
    }
  }
  for (const auto& file : files) {
    if (const absl::Status status = file->Delete(); !status.ok()) {
      spdlog::error("{}; delete it by hand", std::string(status.message()));
    }
  }
  if (const absl::Status status = index_->Apply(change, /*sync=*/false); !status.ok()) {
    spdlog::warn("{}", std::string(status.message()));  // the rows go at the next start
  }
}

absl::Status DiskTier::Reclaim(uint64_t id) {
  std::vector<SegmentRecord> records;
  {
    absl::MutexLock lock(&mutex_);
    records = table_.PagesOf(id);
  }
  for (size_t begin = 0; begin < records.size();) {
    size_t end = begin;
    for (uint64_t bytes = 0; end < records.size() && bytes < kMoveBytesMax; ++end) {
      bytes += RecordBytes(records[end].location.bytes);
    }
    LEXICO_RETURN_IF_ERROR(MovePages(std::span(records).subspan(begin, end - begin)));
    begin = end;
  }
  DeleteDeadSegments();
  return absl::OkStatus();
}

absl::Status DiskTier::MovePages(std::span<const SegmentRecord> records) {
  std::shared_ptr<SegmentFile> file;
  {
    absl::MutexLock lock(&mutex_);
    file = table_.File(records.front().location.segment_id);
  }
  std::vector<NamedPage> pages;
  std::vector<Location> sources;
  for (const SegmentRecord& record : records) {
    auto page = std::make_shared<PageBuffer>(record.location.bytes);
    absl::Status status = file->Read(record.location.offset, page->mutable_bytes());
    if (absl::IsUnavailable(status)) return status;
    const ExpectedPage expected{.key = record.key};
    if (status.ok()) status = DecodePage(page->bytes(), &expected).status();
    if (!status.ok()) {
      spdlog::error("{}",
                    std::string(DropDamaged(record.key, record.location, *file, status).message()));
      continue;
    }
    pages.push_back({record.key, std::move(page)});
    sources.push_back(record.location);
  }
  if (pages.empty()) return absl::OkStatus();
  std::vector<Location> targets;
  LEXICO_RETURN_IF_ERROR(AppendDurably(pages, &targets));
  IndexChange change;  // pages that were dropped as damaged while they were moved
  {
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < pages.size(); ++i) {
      if (table_.MovePage(pages[i].key, sources[i], targets[i])) continue;
      change.removed.push_back(pages[i].key);
    }
  }
  return index_->Apply(change, /*sync=*/false);
}

absl::Status DiskTier::CheckFreeSpace(uint64_t bytes) {
  struct statvfs info;
  if (statvfs(options_.dir.c_str(), &info) != 0) return ErrnoStatus(errno, "statvfs");
  uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
  if (options_.faults != nullptr && !options_.faults->Hit("disk.space").ok()) free_bytes = 0;
  if (free_bytes >= bytes + options_.reserve_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("the file system of {} has {} bytes free, {} are wanted and {} stay reserved for "
                  "the index; free space or lower --disk_bytes",
                  options_.dir, free_bytes, bytes, options_.reserve_bytes));
}

absl::StatusOr<PagePtr> DiskTier::Get(const PageKey& key, absl::Time now) {
  Location location;
  std::shared_ptr<SegmentFile> file;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = table_.Find(key);
    if (!found.has_value()) return absl::NotFoundError(fmt::format("no page {}", key.ToHex()));
    table_.order().Touch(key, now);
    location = *found;
    file = table_.File(location.segment_id);
  }
  auto page = std::make_shared<PageBuffer>(location.bytes);
  absl::Status status = file->Read(location.offset, page->mutable_bytes());
  if (absl::IsUnavailable(status)) return status;
  const ExpectedPage expected{.key = key};
  if (status.ok()) status = DecodePage(page->bytes(), &expected).status();
  if (!status.ok()) return DropDamaged(key, location, *file, status);
  return page;
}

absl::Status DiskTier::DropDamaged(const PageKey& key, const Location& location,
                                   const SegmentFile& file, const absl::Status& why) {
  IndexChange change;
  {
    absl::MutexLock lock(&mutex_);
    if (table_.Find(key) == location) {
      table_.RemovePage(key);
      change.removed.push_back(key);
      ++n_checksum_failures_;
    }
  }
  if (const absl::Status status = index_->Apply(change, /*sync=*/false); !status.ok()) {
    spdlog::warn("{}", std::string(status.message()));
  }
  return absl::DataLossError(
      fmt::format("page {} in {} at offset {} is damaged and was dropped: {}", key.ToHex(),
                  file.path(), location.offset, std::string(why.message())));
}

bool DiskTier::Touch(const PageKey& key, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  return table_.order().Touch(key, now);
}

void DiskTier::SetClaimed(const PageKey& key, bool claimed, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  table_.order().SetClaimed(key, claimed, now);
}

TierUsage DiskTier::usage() const {
  absl::MutexLock lock(&mutex_);
  return {.bytes = table_.live_bytes(),
          .bytes_max = live_bytes_max_,
          .n_pages = table_.order().n_pages(),
          .n_evictions = n_evictions_,
          .n_checksum_failures = n_checksum_failures_};
}

uint64_t DiskTier::file_bytes() const {
  absl::MutexLock lock(&mutex_);
  return table_.file_bytes();
}

}  // namespace lexico::store

// What DiskTier does at start: take the folder, read the index, reconcile it with the segments.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "cache_store/tiers/disk_tier.h"
#include "cache_store/tiers/index_rebuild.h"
#include "proto/base/log.h"
#include "proto/base/status.h"

namespace lexico::store {

absl::StatusOr<std::unique_ptr<DiskTier>> DiskTier::Open(const DiskTierOptions& options,
                                                         absl::Time now) {
  std::unique_ptr<DiskTier> tier(new DiskTier(options));
  std::error_code error;
  std::filesystem::create_directories(tier->segments_dir_, error);
  if (error) {
    return absl::UnavailableError(
        fmt::format("cannot make {}: {}; choose a --data_dir this user "
                    "may write",
                    tier->segments_dir_, error.message()));
  }
  LEXICO_RETURN_IF_ERROR(SyncDirectory(options.dir));
  LEXICO_RETURN_IF_ERROR(tier->Lock());
  const std::string index_dir = options.dir + "/index";
  LEXICO_RETURN_IF_ERROR(options.rebuild_index ? RebuildIndex(options.dir)
                                               : CheckIndexIsThere(options.dir));
  LEXICO_ASSIGN_OR_RETURN(tier->index_, Index::Open(index_dir, options.faults));
  LEXICO_RETURN_IF_ERROR(WithIndexRemedy(tier->Recover(now), index_dir));
  return tier;
}

absl::Status DiskTier::Lock() {
  const std::string path = options_.dir + "/LOCK";
  lock_fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640);
  if (lock_fd_ < 0) return ErrnoStatus(errno, "open " + path);
  if (flock(lock_fd_, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(fmt::format(
        "{} is served by another process; end it or choose another --data_dir", options_.dir));
  }
  return ErrnoStatus(errno, "lock " + path);
}

absl::Status DiskTier::Recover(absl::Time now) {
  LEXICO_ASSIGN_OR_RETURN(const auto sealed, index_->SealedSegments());
  LEXICO_ASSIGN_OR_RETURN(const std::vector<uint64_t> ids, ListSegments(segments_dir_));
  std::map<uint64_t, std::vector<SegmentRecord>> indexed;
  LEXICO_RETURN_IF_ERROR(index_->ForEachPage(
      [&](const SegmentRecord& record) { indexed[record.location.segment_id].push_back(record); }));

  IndexChange change;
  size_t n_recovered = 0;
  for (const uint64_t id : ids) {
    if (++n_recovered % 16 == 0) spdlog::info("segment {} of {}", n_recovered, ids.size());
    const auto row = sealed.find(id);
    std::optional<uint64_t> sealed_length;
    if (row != sealed.end()) sealed_length = row->second;
    LEXICO_RETURN_IF_ERROR(RecoverSegment(id, sealed_length, std::move(indexed[id]), now, &change));
    indexed.erase(id);
  }
  for (const auto& [id, records] : indexed) {
    spdlog::error("segment {} is missing: {} pages are lost", id, records.size());
    for (const SegmentRecord& record : records) change.removed.push_back(record.key);
  }
  for (const auto& [id, length] : sealed) {
    absl::MutexLock lock(&mutex_);
    if (table_.File(id) == nullptr) change.deleted_segments.push_back(id);
  }
  return index_->Apply(change, /*sync=*/true);
}

absl::Status DiskTier::RecoverSegment(uint64_t id, std::optional<uint64_t> sealed_length,
                                      std::vector<SegmentRecord> indexed, absl::Time now,
                                      IndexChange* change) {
  auto opened = SegmentFile::Open(segments_dir_, id, options_.faults);
  if (!opened.ok()) {
    if (!absl::IsDataLoss(opened.status())) return opened.status();
    spdlog::error("{}: its pages ({} in the index) are lost; the file stays for inspection",
                  std::string(opened.status().message()), indexed.size());
    for (const SegmentRecord& record : indexed) change->removed.push_back(record.key);
    return absl::OkStatus();
  }
  const std::shared_ptr<SegmentFile> file = *std::move(opened);

  std::vector<SegmentRecord> present;
  if (sealed_length.has_value()) {
    for (const SegmentRecord& record : indexed) {
      const bool inside = record.location.offset + record.location.bytes <= file->size();
      inside ? present.push_back(record) : change->removed.push_back(record.key);
    }
  } else {
    LEXICO_ASSIGN_OR_RETURN(SegmentScan scan, file->Scan());
    spdlog::info("{}: {} pages read through", file->path(), scan.records.size());
    if (scan.n_damaged > 0) {
      spdlog::error("{}: damaged pages between whole ones ({} places of 64 bytes) are lost",
                    file->path(), scan.n_damaged);
    }
    if (scan.end != file->size()) {
      spdlog::info("{}: {} bytes of a torn write are cut off", file->path(),
                   file->size() > scan.end ? file->size() - scan.end : 0);
      LEXICO_RETURN_IF_ERROR(file->Truncate(scan.end));
    }
    absl::flat_hash_map<PageKey, Location> valid;
    for (const SegmentRecord& record : scan.records) valid[record.key] = record.location;
    absl::MutexLock lock(&mutex_);
    for (const SegmentRecord& record : indexed) {
      const auto it = valid.find(record.key);
      if (it != valid.end() && it->second == record.location) continue;
      if (it == valid.end()) {
        spdlog::error("page {} in {} at offset {} is damaged and was dropped", record.key.ToHex(),
                      file->path(), record.location.offset);
        ++n_checksum_failures_;
        change->removed.push_back(record.key);
      }
    }
    for (const auto& [key, location] : valid) present.push_back({key, location});
  }

  absl::MutexLock lock(&mutex_);
  table_.AddSegment(file, sealed_length.has_value());
  for (const SegmentRecord& record : present) {
    // Two segments may hold a page when a reclaim was cut short; either serves.
    if (table_.Find(record.key).has_value()) continue;
    table_.AddPage(record.key, record.location, now);
    if (!sealed_length.has_value()) change->added.push_back(record);
  }
  if (sealed_length.has_value()) return absl::OkStatus();
  if (active_ != nullptr) {
    change->sealed_segments.emplace_back(active_->id(), active_->size());
    table_.Seal(active_->id(), active_->size());
  }
  active_ = file;
  return absl::OkStatus();
}

}  // namespace lexico::store

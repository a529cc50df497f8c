// What DiskTier does to find damage before a reader does.
#include <algorithm>

#include "cache_store/format/page.h"
#include "cache_store/tiers/disk_tier.h"
#include "proto/base/log.h"

namespace lexico::store {

absl::StatusOr<ScrubStep> DiskTier::Scrub(ScrubCursor* cursor, uint64_t bytes_max) {
  std::vector<SegmentRecord> records;
  std::shared_ptr<SegmentFile> file;
  ScrubCursor at = *cursor;
  {
    absl::MutexLock lock(&mutex_);
    const auto segment = table_.segments().lower_bound(at.segment_id);
    if (segment == table_.segments().end()) {
      *cursor = {};
      return ScrubStep{.pass_ended = true};
    }
    if (segment->first != at.segment_id) at = {segment->first, 0};
    records = table_.PagesOf(at.segment_id);
    file = segment->second.file;
  }
  std::sort(records.begin(), records.end(), [](const SegmentRecord& a, const SegmentRecord& b) {
    return a.location.offset < b.location.offset;
  });
  ScrubStep step;
  for (const SegmentRecord& record : records) {
    if (record.location.offset < at.offset) continue;
    if (step.bytes >= bytes_max) {
      *cursor = {at.segment_id, record.location.offset};
      return step;
    }
    const absl::Status sound = VerifyOnDisk(record, *file);
    if (absl::IsUnavailable(sound)) return sound;
    ++step.n_pages;
    step.bytes += record.location.bytes;
    if (sound.ok()) continue;
    const absl::Status dropped = DropDamaged(record.key, record.location, *file, sound);
    spdlog::error("scrub: {}", std::string(dropped.message()));
    step.damaged.push_back(record.key);
  }
  *cursor = {at.segment_id + 1, 0};
  return step;
}

absl::Status DiskTier::VerifyOnDisk(const SegmentRecord& record, const SegmentFile& file) {
  PageBuffer page(record.location.bytes);
  // Before: what the page cache has says nothing about the disk. After: pages that only a scrub
  // reads must not push out those that sessions read.
  file.DropCached(record.location.offset, record.location.bytes);
  const absl::Status read = file.Read(record.location.offset, page.mutable_bytes());
  file.DropCached(record.location.offset, record.location.bytes);
  if (!read.ok()) return read;
  const ExpectedPage expected{.key = record.key};
  return DecodePage(page.bytes(), &expected).status();
}

}  // namespace lexico::store

#include "cache_store/tiers/segment_table.h"

#include "proto/base/check.h"

namespace lexico::store {

void SegmentTable::AddSegment(std::shared_ptr<SegmentFile> file, bool sealed) {
  const uint64_t id = file->id();
  const uint64_t length = file->size();
  const bool inserted =
      segments_.emplace(id, Segment{std::move(file), length, 0, sealed, {}}).second;
  LEXICO_CHECK(inserted);
  file_bytes_ += length;
}

void SegmentTable::SetLength(uint64_t id, uint64_t length) {
  Segment& segment = segments_.at(id);
  file_bytes_ = file_bytes_ - segment.length + length;
  segment.length = length;
}

void SegmentTable::Seal(uint64_t id, uint64_t length) {
  SetLength(id, length);
  segments_.at(id).sealed = true;
}

void SegmentTable::RemoveSegment(uint64_t id) {
  const auto it = segments_.find(id);
  LEXICO_CHECK(it != segments_.end());
  LEXICO_CHECK_EQ(it->second.live_bytes, 0u);
  file_bytes_ -= it->second.length;
  segments_.erase(it);
}

void SegmentTable::AddPage(const PageKey& key, const Location& location, absl::Time now) {
  const bool inserted = locations_.emplace(key, location).second;
  LEXICO_CHECK(inserted);
  const uint64_t bytes = RecordBytes(location.bytes);
  order_.Insert(key, static_cast<uint32_t>(bytes), now);
  Segment& segment = segments_.at(location.segment_id);
  segment.live_bytes += bytes;
  segment.keys.push_back(key);
}

bool SegmentTable::MovePage(const PageKey& key, const Location& from, const Location& to) {
  const auto it = locations_.find(key);
  if (it == locations_.end() || it->second != from) return false;
  const uint64_t bytes = RecordBytes(from.bytes);
  segments_.at(from.segment_id).live_bytes -= bytes;
  Segment& target = segments_.at(to.segment_id);
  target.live_bytes += bytes;
  target.keys.push_back(key);
  it->second = to;
  return true;
}

bool SegmentTable::RemovePage(const PageKey& key) {
  const auto it = locations_.find(key);
  if (it == locations_.end()) return false;
  segments_.at(it->second.segment_id).live_bytes -= RecordBytes(it->second.bytes);
  locations_.erase(it);
  order_.Remove(key);
  return true;
}

std::optional<Location> SegmentTable::Find(const PageKey& key) const {
  const auto it = locations_.find(key);
  if (it == locations_.end()) return std::nullopt;
  return it->second;
}

std::shared_ptr<SegmentFile> SegmentTable::File(uint64_t id) const {
  const auto it = segments_.find(id);
  return it == segments_.end() ? nullptr : it->second.file;
}

std::vector<SegmentRecord> SegmentTable::PagesOf(uint64_t id) const {
  std::vector<SegmentRecord> records;
  absl::flat_hash_map<PageKey, bool> seen;  // a page may have left and come back
  for (const PageKey& key : segments_.at(id).keys) {
    const auto it = locations_.find(key);
    if (it == locations_.end() || it->second.segment_id != id) continue;
    if (seen.emplace(key, true).second) records.push_back({key, it->second});
  }
  return records;
}

std::optional<uint64_t> SegmentTable::MostDead() const {
  std::optional<uint64_t> best;
  uint64_t most = 0;
  for (const auto& [id, segment] : segments_) {
    const uint64_t dead = segment.length - kSegmentHeaderBytes - segment.live_bytes;
    if (segment.sealed && dead > most) {
      most = dead;
      best = id;
    }
  }
  return best;
}

std::vector<uint64_t> SegmentTable::Dead() const {
  std::vector<uint64_t> dead;
  for (const auto& [id, segment] : segments_) {
    if (segment.sealed && segment.live_bytes == 0) dead.push_back(id);
  }
  return dead;
}

}  // namespace lexico::store

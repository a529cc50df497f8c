// What a disk tier knows of its pages and segments, in memory: where each page lies, how much of
// each segment is alive, and what may go. No I/O except that it holds the open files.
//
// A page costs about 200 bytes here, 0.5 to 3 % of its bytes on disk.
//
// Thread-compatible: the tier guards it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "cache_store/tiers/eviction_order.h"
#include "cache_store/tiers/segment_file.h"

namespace lexico::store {

class SegmentTable {
 public:
  struct Segment {
    std::shared_ptr<SegmentFile> file;
    uint64_t length = 0;      // bytes of the file that count
    uint64_t live_bytes = 0;  // of records that pages are read from
    bool sealed = false;
    std::vector<PageKey> keys;  // of every page ever put here; some may have left
  };

  void AddSegment(std::shared_ptr<SegmentFile> file, bool sealed);
  // Its end moved by an append, or back by a truncation.
  void SetLength(uint64_t id, uint64_t length);
  void Seal(uint64_t id, uint64_t length);
  // REQUIRES: no live bytes.
  void RemoveSegment(uint64_t id);

  // A page that has just been put (unclaimed, used now). REQUIRES: not there yet, segment known.
  void AddPage(const PageKey& key, const Location& location, absl::Time now);
  // The page lies at `to` now. False, and nothing changes, when it no longer lies at `from`.
  bool MovePage(const PageKey& key, const Location& from, const Location& to);
  bool RemovePage(const PageKey& key);

  std::optional<Location> Find(const PageKey& key) const;
  // nullptr when there is none.
  std::shared_ptr<SegmentFile> File(uint64_t id) const;
  // Pages that lie in the segment now.
  std::vector<SegmentRecord> PagesOf(uint64_t id) const;

  // The sealed segment with the most dead bytes, or nullopt when none has any.
  std::optional<uint64_t> MostDead() const;
  // Sealed segments without a live byte.
  std::vector<uint64_t> Dead() const;

  EvictionOrder& order() { return order_; }
  const EvictionOrder& order() const { return order_; }
  uint64_t live_bytes() const { return order_.bytes(); }
  uint64_t file_bytes() const { return file_bytes_; }
  uint64_t last_id() const { return segments_.empty() ? 0 : segments_.rbegin()->first; }
  const std::map<uint64_t, Segment>& segments() const { return segments_; }

 private:
  absl::flat_hash_map<PageKey, Location> locations_;
  std::map<uint64_t, Segment> segments_;
  EvictionOrder order_;
  uint64_t file_bytes_ = 0;
};

}  // namespace lexico::store

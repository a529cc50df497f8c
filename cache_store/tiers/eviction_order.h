// Which page of a tier goes next. A data structure without I/O, clock or threads: time comes in as
// an argument, and the tier carries the answer out.
//
// A page is claimed while a manifest names it. An unclaimed page is under lease for kPageLease
// after its last use, because pages arrive before the manifest that names them.
//
// Order:
//   1. unclaimed pages whose lease ended, least recently used first
//   2. only in a tier that has another one below it: all others, least recently used first
// In the last tier claimed and leased pages never go; the tier refuses new ones instead.
//
// Thread-compatible. Every call is O(1).
#pragma once

#include <cstdint>
#include <list>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "cache_store/format/page_key.h"

namespace lexico::store {

// Longer than any pause between a worker's PutPages and the PutManifest that follows it.
inline constexpr absl::Duration kPageLease = absl::Minutes(1);

class EvictionOrder {
 public:
  // A new page, unclaimed and just used. REQUIRES: not there yet.
  void Insert(const PageKey& key, uint32_t bytes, absl::Time now);
  // Just used: its lease starts again. False when it is not there.
  bool Touch(const PageKey& key, absl::Time now);
  // Also counts as a use. False when it is not there.
  bool SetClaimed(const PageKey& key, bool claimed, absl::Time now);
  // Its bytes, or nullopt when it is not there.
  std::optional<uint32_t> Remove(const PageKey& key);

  // The next to go, or nullopt when nothing may. Callers read one clock and may come in another
  // order: a reading older than the newest that was seen counts as the newest.
  std::optional<PageKey> Victim(absl::Time now, bool last_tier) const;

  size_t n_pages() const { return entries_.size(); }
  uint64_t bytes() const { return bytes_; }
  uint64_t claimed_bytes() const { return claimed_bytes_; }

 private:
  struct Entry {
    PageKey key;
    uint32_t bytes;
    bool claimed;
    absl::Time last_use;
  };
  using Queue = std::list<Entry>;  // least recently used first
  Queue& QueueOf(bool claimed) { return claimed ? claimed_ : unclaimed_; }

  Queue unclaimed_;
  Queue claimed_;
  absl::flat_hash_map<PageKey, Queue::iterator> entries_;
  absl::Time newest_ = absl::InfinitePast();
  uint64_t bytes_ = 0;
  uint64_t claimed_bytes_ = 0;
};

}  // namespace lexico::store

#include "cache_store/tiers/eviction_order.h"

#include <algorithm>

#include "proto/base/check.h"

namespace lexico::store {

void EvictionOrder::Insert(const PageKey& key, uint32_t bytes, absl::Time now) {
  newest_ = std::max(newest_, now);
  unclaimed_.push_back({key, bytes, /*claimed=*/false, newest_});
  const bool inserted = entries_.emplace(key, std::prev(unclaimed_.end())).second;
  LEXICO_CHECK(inserted);
  bytes_ += bytes;
}

bool EvictionOrder::Touch(const PageKey& key, absl::Time now) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return false;
  newest_ = std::max(newest_, now);
  it->second->last_use = newest_;
  Queue& queue = QueueOf(it->second->claimed);
  queue.splice(queue.end(), queue, it->second);  // iterators stay valid
  return true;
}

bool EvictionOrder::SetClaimed(const PageKey& key, bool claimed, absl::Time now) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return false;
  Entry& entry = *it->second;
  if (entry.claimed != claimed) {
    claimed_bytes_ += claimed ? entry.bytes : -uint64_t{entry.bytes};
  }
  Queue& source = QueueOf(entry.claimed);
  Queue& target = QueueOf(claimed);
  entry.claimed = claimed;
  newest_ = std::max(newest_, now);
  entry.last_use = newest_;
  target.splice(target.end(), source, it->second);
  return true;
}

std::optional<uint32_t> EvictionOrder::Remove(const PageKey& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return std::nullopt;
  const uint32_t bytes = it->second->bytes;
  bytes_ -= bytes;
  if (it->second->claimed) claimed_bytes_ -= bytes;
  QueueOf(it->second->claimed).erase(it->second);
  entries_.erase(it);
  return bytes;
}

std::optional<PageKey> EvictionOrder::Victim(absl::Time now, bool last_tier) const {
  if (!unclaimed_.empty() && unclaimed_.front().last_use + kPageLease <= std::max(newest_, now)) {
    return unclaimed_.front().key;
  }
  if (last_tier) return std::nullopt;
  if (unclaimed_.empty() && claimed_.empty()) return std::nullopt;
  if (claimed_.empty()) return unclaimed_.front().key;
  if (unclaimed_.empty()) return claimed_.front().key;
  return unclaimed_.front().last_use < claimed_.front().last_use ? unclaimed_.front().key
                                                                 : claimed_.front().key;
}

}  // namespace lexico::store

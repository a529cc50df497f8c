#include "cache_store/tiers/host_tier.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace lexico::store {

absl::Status HostTier::Put(std::span<const NamedPage> pages, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  std::vector<PageKey> added;
  for (const NamedPage& named : pages) {
    if (order_.Touch(named.key, now)) continue;
    const uint64_t bytes = named.page->size() + kEntryBytes;
    if (!MakeRoom(bytes, now)) {
      for (const PageKey& key : added) Drop(key);
      return absl::ResourceExhaustedError(fmt::format(
          "host tier is full: a page needs {} bytes, {} of {} are in use, {} of them by pages of "
          "sessions; delete sessions or raise --host_bytes",
          bytes, order_.bytes(), bytes_max_, order_.claimed_bytes()));
    }
    order_.Insert(named.key, static_cast<uint32_t>(bytes), now);
    pages_.emplace(named.key, named.page);
    added.push_back(named.key);
  }
  return absl::OkStatus();
}

bool HostTier::MakeRoom(uint64_t bytes, absl::Time now) {
  if (bytes > bytes_max_) return false;
  while (order_.bytes() + bytes > bytes_max_) {
    const auto victim = order_.Victim(now, last_tier_);
    if (!victim.has_value()) return false;
    Drop(*victim);
    ++n_evictions_;
  }
  return true;
}

void HostTier::Drop(const PageKey& key) {
  order_.Remove(key);
  pages_.erase(key);
}

absl::StatusOr<PagePtr> HostTier::Get(const PageKey& key, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  const auto it = pages_.find(key);
  if (it == pages_.end()) return absl::NotFoundError(fmt::format("no page {}", key.ToHex()));
  order_.Touch(key, now);
  return it->second;
}

bool HostTier::Touch(const PageKey& key, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  return order_.Touch(key, now);
}

void HostTier::SetClaimed(const PageKey& key, bool claimed, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  order_.SetClaimed(key, claimed, now);
}

bool HostTier::HasSample(std::span<const PageKey> keys, size_t n_max) const {
  const size_t step = std::max<size_t>(1, keys.size() / n_max);
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < keys.size(); i += step) {
    if (!pages_.contains(keys[i])) return false;
  }
  return true;
}

TierUsage HostTier::usage() const {
  absl::MutexLock lock(&mutex_);
  return {.bytes = order_.bytes(),
          .bytes_max = bytes_max_,
          .n_pages = order_.n_pages(),
          .n_evictions = n_evictions_,
          .n_checksum_failures = 0};
}

}  // namespace lexico::store

// Pages in this process's memory, up to a limit.
#pragma once

#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "cache_store/tiers/eviction_order.h"
#include "cache_store/tiers/tier.h"

namespace lexico::store {

class HostTier : public Tier {
 public:
  // What one page costs beside its bytes: the allocation, the map, the list. Counted against the
  // limit, so that a store of many small pages keeps to it too.
  static constexpr size_t kEntryBytes = 192;

  // last_tier: nothing below keeps a copy, so claimed pages stay and puts are refused.
  HostTier(uint64_t bytes_max, bool last_tier) : bytes_max_(bytes_max), last_tier_(last_tier) {}

  std::string_view name() const override { return "host"; }
  absl::Status Put(std::span<const NamedPage> pages, absl::Time now) override;
  absl::StatusOr<PagePtr> Get(const PageKey& key, absl::Time now) override;
  bool Touch(const PageKey& key, absl::Time now) override;
  void SetClaimed(const PageKey& key, bool claimed, absl::Time now) override;
  // Whether some of `keys`, `n_max` at even distances, are all here. A look, not a use.
  bool HasSample(std::span<const PageKey> keys, size_t n_max) const;
  TierUsage usage() const override;

 private:
  bool MakeRoom(uint64_t bytes, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Drop(const PageKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t bytes_max_;
  const bool last_tier_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<PageKey, PagePtr> pages_ ABSL_GUARDED_BY(mutex_);
  EvictionOrder order_ ABSL_GUARDED_BY(mutex_);
  uint64_t n_evictions_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace lexico::store

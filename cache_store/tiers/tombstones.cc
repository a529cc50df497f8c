#include "cache_store/tiers/tombstones.h"

#include <algorithm>

namespace lexico::store {

Tombstone Tombstones::Joined(const std::string& session_id, const Tombstone& tombstone) const {
  const auto it = by_id_.find(session_id);
  if (it == by_id_.end()) return tombstone;
  const Tombstone& before = it->second;
  return {.create_time_us = std::max(before.create_time_us, tombstone.create_time_us),
          .epoch = std::max(before.epoch, tombstone.epoch),
          .delete_time_us = std::max(before.delete_time_us, tombstone.delete_time_us)};
}

void Tombstones::Set(const std::string& session_id, const Tombstone& tombstone) {
  Tombstone& kept = by_id_[session_id];
  by_time_.erase({kept.delete_time_us, session_id});
  kept = tombstone;
  by_time_.emplace(kept.delete_time_us, session_id);
}

const Tombstone* Tombstones::Refusing(const Manifest& manifest) const {
  const auto it = by_id_.find(manifest.session_id);
  if (it == by_id_.end()) return nullptr;
  const Tombstone& stone = it->second;
  const bool by_birth =
      stone.create_time_us != 0 && manifest.create_time_us <= stone.create_time_us;
  const bool by_epoch =
      manifest.epoch <= stone.epoch && manifest.create_time_us <= stone.delete_time_us;
  return by_birth || by_epoch ? &stone : nullptr;
}

std::vector<std::string> Tombstones::Expire(absl::Time now) {
  const int64_t oldest_us = absl::ToUnixMicros(now - kKept);
  std::vector<std::string> gone;
  while (!by_time_.empty() &&
         (by_time_.begin()->first < oldest_us || by_time_.size() > count_max_)) {
    gone.push_back(by_time_.begin()->second);
    by_id_.erase(gone.back());
    by_time_.erase(by_time_.begin());
  }
  return gone;
}

}  // namespace lexico::store

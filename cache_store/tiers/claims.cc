#include "cache_store/tiers/claims.h"

#include <algorithm>
#include <span>

#include "proto/base/check.h"

namespace lexico::store {

ClaimChange Claims::Set(const std::string& session_id, Session session) {
  Session& stored = sessions_[session_id];
  const Session before = std::exchange(stored, std::move(session));
  return Replace(before.keys, stored.keys);
}

ClaimChange Claims::Remove(const std::string& session_id) {
  const auto it = sessions_.find(session_id);
  if (it == sessions_.end()) return {};
  const Session before = std::move(it->second);
  sessions_.erase(it);
  return Replace(before.keys, {});
}

const Claims::Session* Claims::Find(const std::string& session_id) const {
  const auto it = sessions_.find(session_id);
  return it == sessions_.end() ? nullptr : &it->second;
}

ClaimChange Claims::Replace(const std::vector<PageKey>& before, const std::vector<PageKey>& after) {
  const size_t common =
      std::mismatch(before.begin(), before.end(), after.begin(), after.end()).first -
      before.begin();
  ClaimChange change;
  // Counting up first: a key that only moved within the list is never released.
  for (const PageKey& key : std::span(after).subspan(common)) {
    if (counts_[key]++ == 0) change.claimed.push_back(key);
  }
  for (const PageKey& key : std::span(before).subspan(common)) {
    const auto it = counts_.find(key);
    LEXICO_CHECK(it != counts_.end());
    if (--it->second > 0) continue;
    counts_.erase(it);
    change.released.push_back(key);
  }
  return change;
}

Claims::Session SessionOf(const Manifest& manifest, int64_t update_time_us) {
  Claims::Session session{.tenant = manifest.tenant,
                          .epoch = manifest.epoch,
                          .create_time_us = manifest.create_time_us,
                          .update_time_us = update_time_us,
                          .n_tokens = manifest.tokens.size(),
                          .keys = manifest.page_keys};
  session.keys.insert(session.keys.end(), manifest.window_keys.begin(), manifest.window_keys.end());
  return session;
}

}  // namespace lexico::store

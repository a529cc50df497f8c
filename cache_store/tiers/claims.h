// Which sessions' manifests name which pages. Rebuilt from the manifests at start, so that it can
// never disagree with them. No I/O.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "cache_store/format/manifest.h"

namespace lexico::store {

struct ClaimChange {
  std::vector<PageKey> claimed;   // named by a manifest now, by none before
  std::vector<PageKey> released;  // named by none now
};

class Claims {
 public:
  struct Session {
    std::string tenant;
    uint64_t epoch = 0;
    int64_t create_time_us = 0;
    int64_t update_time_us = 0;
    uint64_t n_tokens = 0;
    std::vector<PageKey> keys;  // pages, then windows
  };

  // Replaces what `session_id` claims. Cost: the keys behind the common beginning of the old and
  // the new list, so a session that grows pays for what it grew by.
  ClaimChange Set(const std::string& session_id, Session session);
  ClaimChange Remove(const std::string& session_id);

  // nullptr when there is none. Valid until the next change.
  const Session* Find(const std::string& session_id) const;
  bool IsClaimed(const PageKey& key) const { return counts_.contains(key); }
  const std::map<std::string, Session>& sessions() const { return sessions_; }

 private:
  ClaimChange Replace(const std::vector<PageKey>& before, const std::vector<PageKey>& after);

  std::map<std::string, Session> sessions_;
  absl::flat_hash_map<PageKey, uint32_t> counts_;
};

// The session of a decoded manifest.
Claims::Session SessionOf(const Manifest& manifest, int64_t update_time_us);

}  // namespace lexico::store

// Which sessions were deleted, so that a manifest that arrives late does not bring one back: from a
// worker that was cut off, or that had put its sync off while the store was down. No I/O.
//
// A session is known by its birth: of one id, the deleted session and all before it are refused,
// and one created later is not. A delete that does not say the birth, of a session of which nothing
// is stored, goes by epoch and time: what was born before the deletion at an epoch up to its own.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "cache_store/format/manifest.h"
#include "cache_store/tiers/manifest_table.h"

namespace lexico::store {

class Tombstones {
 public:
  // A worker is told to drop a deleted session with its next heartbeat. This is for one that was
  // cut off from its coordinator, and longer than anybody leaves such a process running.
  static constexpr absl::Duration kKept = absl::Hours(7 * 24);
  // Some 150 MB; then the oldest go early.
  static constexpr size_t kCountMax = 1'000'000;

  explicit Tombstones(size_t count_max = kCountMax) : count_max_(count_max) {}

  // `tombstone` joined with an earlier one of that id, which stays in force.
  Tombstone Joined(const std::string& session_id, const Tombstone& tombstone) const;
  // Replaces.
  void Set(const std::string& session_id, const Tombstone& tombstone);
  // nullptr when the manifest may come in. Valid until the next change.
  const Tombstone* Refusing(const Manifest& manifest) const;
  // Takes out those that are older than kKept, or too many; returns their ids.
  std::vector<std::string> Expire(absl::Time now);
  size_t size() const { return by_id_.size(); }

 private:
  const size_t count_max_;
  std::map<std::string, Tombstone> by_id_;
  std::set<std::pair<int64_t, std::string>> by_time_;
};

}  // namespace lexico::store

// Keeps the facts of sessions (tokens, bytes, errors, tier) in the registry near the truth, so that
// GetSession and ListSessions tell the same from one place, and listing thousands asks nobody.
//
//   who knows            when the registry hears of it
//   the worker           at the end of every call and move, before the client hears of that end;
//                        while a call runs and until nothing changes any more, every facts_age / 2
//                        in the background; and whenever somebody asks GetSession
//   the store            its tier, every store_retry while sessions are not on disk (with --store)
//
// What is asked in the background is in proportion to the sessions in use, not to those there are.
//
// Thread safety: each method from one thread.
#pragma once

#include "absl/status/statusor.h"
#include "coordinator/service/cluster.h"
#include "coordinator/service/store_link.h"

namespace lexico::coord {

// What the session's worker says now; the registry has it on return. Waits two seconds at most.
absl::StatusOr<v1::Session> DescribeSession(Cluster& cluster, const std::string& worker_id,
                                            const std::string& session_id, uint64_t epoch);

class FactsKeeper {
 public:
  // `store` may be null. Both must outlive this.
  FactsKeeper(Cluster& cluster, const StoreLink* store) : cluster_(cluster), store_(store) {}

  // One round over the sessions whose facts may have changed. A worker that does not answer is left
  // out for the rest of it.
  void RefreshFromWorkers();
  // Which sessions that are on no worker lie in the store's memory, and which on its disk.
  void RefreshTiers();

 private:
  Cluster& cluster_;
  const StoreLink* const store_;
};

}  // namespace lexico::coord

// Deletes sessions: from their worker, and from the store.
//
// A client's DeleteSession succeeds as soon as the deletion cannot be lost. When the store (or
// every worker that could reach it) is down, the deletion is written to the cluster state and tried
// again in the background until the store has confirmed it, after a restart as well. The store
// remembers what it deleted, so a worker that syncs late brings nothing back.
//
// With a StoreLink the store is told directly, by the session's birth. Without one it is told
// through a worker, which needs one that lives.
//
// Thread safety: Delete from any thread, each with its own Hold; RetryPending from one.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "coordinator/service/cluster.h"
#include "coordinator/service/store_link.h"

namespace lexico::coord {

class Deleter {
 public:
  // `store` may be null. Both must outlive this.
  Deleter(Cluster& cluster, const StoreLink* store) : cluster_(cluster), store_(store) {}

  // Fails only when the cluster state cannot be written, and then the session is still there.
  absl::Status Delete(const Hold& hold);

  // One round over the pending deletions, each once. Ends at the first that fails: the next would
  // wait for the same store. The next round begins behind it.
  void RetryPending();

 private:
  // OK: the store has nothing of it any more, and will not have.
  absl::Status Attempt(const Deletion& deletion, const std::string& holder);
  absl::Status ReleaseOn(const std::string& worker_id, const Deletion& deletion,
                         bool delete_stored);

  Cluster& cluster_;
  const StoreLink* const store_;
  std::string last_tried_;
  bool is_failing_ = false;
};

}  // namespace lexico::coord

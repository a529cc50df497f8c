#include "coordinator/service/facts.h"

#include <spdlog/spdlog.h>

#include <set>

#include "coordinator/service/convert.h"
#include "coordinator/service/worker_call.h"
#include "proto/base/status.h"

namespace lexico::coord {
namespace {

// A look at a worker on behalf of a reader; last known facts are better than a long wait.
constexpr absl::Duration kDescribeTimeout = absl::Seconds(2);

}  // namespace

absl::StatusOr<v1::Session> DescribeSession(Cluster& cluster, const std::string& worker_id,
                                            const std::string& session_id, uint64_t epoch) {
  v1::SessionAtEpoch request;
  request.set_session_id(session_id);
  request.set_epoch(epoch);
  v1::Session described;
  const uint64_t question = cluster.AskFacts();
  LEXICO_RETURN_IF_ERROR(CallWorker(cluster, worker_id, &v1::WorkerService::StubInterface::Describe,
                                    request, &described, kDescribeTimeout));
  cluster.UpdateFacts(session_id, epoch, question, FactsFromProto(described));
  return described;
}

void FactsKeeper::RefreshFromWorkers() {
  std::set<std::string> silent;
  for (const Cluster::Stale& stale : cluster_.TakeStale()) {
    if (cluster_.IsStopping()) return;
    if (silent.contains(stale.worker)) continue;
    const auto described = DescribeSession(cluster_, stale.worker, stale.session_id, stale.epoch);
    if (!described.ok() && !absl::IsNotFound(described.status()) &&
        !absl::IsAborted(described.status())) {
      silent.insert(stale.worker);
    }
  }
}

void FactsKeeper::RefreshTiers() {
  if (store_ == nullptr || !cluster_.AnyTierMayChange()) return;
  std::string start_after;
  do {
    const auto stored = store_->List(start_after);
    if (!stored.ok()) return;  // whoever needs it says so
    cluster_.SetStoredTiers(stored->entries());
    start_after = stored->more() ? stored->entries(stored->entries_size() - 1).session_id() : "";
  } while (!start_after.empty() && !cluster_.IsStopping());
}

}  // namespace lexico::coord

// What the calls of the worker service share.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lexico/v1/worker.grpc.pb.h"
#include "proto/base/metrics.h"
#include "worker/engine/engine.h"
#include "worker/service/session_store.h"
#include "worker/service/session_table.h"
#include "worker/service/text_model.h"

namespace lexico::worker {

enum class Phase {
  kServing,
  kDraining,  // no new call; running ones go on
  kEnding,    // running calls end as if the connection had failed, so that they go on elsewhere
};

// Everything is owned by main and outlives the service.
struct ServiceContext {
  std::string worker_id;
  v1::ModelInfo model;
  int max_positions = 0;
  const TextModel* text = nullptr;
  Engine* engine = nullptr;
  SessionTable* table = nullptr;
  SessionStore* store = nullptr;  // null: a worker without a store
  base::Metrics* metrics = nullptr;
  std::atomic<Phase> phase = Phase::kServing;
};

// An engine's status with its reason word where programs look for it.
absl::Status FromEngine(const absl::Status& status);

// Unavailable without a reason word: to a coordinator the same as a lost connection, so that it
// takes the session up elsewhere.
absl::Status Leaving(const ServiceContext& context);

// Exclusive use of a session at an epoch. A session that is held at a smaller epoch has another
// owner by now and is dropped.
absl::StatusOr<SessionTable::Use> AcquireSession(ServiceContext& context,
                                                 const v1::SessionAtEpoch& session);

// Forgets a session held at `epoch_max` or a smaller epoch. False: there was none.
bool DropSession(ServiceContext& context, const std::string& session_id, uint64_t epoch_max);

v1::Session SessionToProto(const ServiceContext& context, const SessionRecord& record,
                           const SessionInfo& info);
// The session as it is now. Errors of Engine::Describe.
absl::StatusOr<v1::Session> DescribeSession(const ServiceContext& context,
                                            const SessionRecord& record);

v1::Usage UsageToProto(const CallUsage& usage);
v1::Timing TimingToProto(const CallTiming& timing);

// The deadline of a call; InfiniteFuture without one.
absl::Time DeadlineOf(const grpc::ServerContext& context);

// Counts a call and its time when it ends.
class CallRecorder {
 public:
  CallRecorder(base::Metrics* metrics, std::string method);
  // Counts, and converts.
  grpc::Status Finish(const absl::Status& status);

 private:
  base::Metrics* const metrics_;
  const std::string method_;
  const absl::Time begin_;
};

}  // namespace lexico::worker

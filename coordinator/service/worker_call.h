// One unary call to a worker, with a timeout of its own and its name in the error. While the worker
// still stops a cancelled call of the session, it is asked again.
#pragma once

#include <fmt/format.h>

#include <string>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "coordinator/service/cluster.h"
#include "coordinator/service/errors.h"
#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"

namespace lexico::coord {

// A worker looks for cancelled calls between steps; a step of a long prefill takes the longest.
inline constexpr absl::Duration kSettleTimeout = absl::Seconds(10);
inline constexpr absl::Duration kSettlePoll = absl::Milliseconds(5);

// A unary method of WorkerService.
template <typename Request, typename Response>
using WorkerMethod = grpc::Status (v1::WorkerService::StubInterface::*)(grpc::ClientContext*,
                                                                        const Request&, Response*);

template <typename Request, typename Response>
absl::Status CallWorker(Cluster& cluster, const std::string& worker_id,
                        WorkerMethod<Request, Response> method, const Request& request,
                        Response* response, absl::Duration timeout) {
  LEXICO_ASSIGN_OR_RETURN(const WorkerStub stub, cluster.StubOf(worker_id));
  const absl::Time settle_deadline = absl::Now() + kSettleTimeout;
  absl::Status status;
  while (true) {
    grpc::ClientContext context;
    rpc::SetTimeout(context, timeout);
    status = rpc::FromGrpc(((*stub).*method)(&context, request, response));
    if (!IsStillStopping(status) || absl::Now() >= settle_deadline) break;
    absl::SleepFor(kSettlePoll);
  }
  return base::Annotate(status, fmt::format("worker {}", worker_id));
}

}  // namespace lexico::coord

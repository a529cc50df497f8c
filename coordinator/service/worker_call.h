// One unary call to a worker, with a timeout of its own and its name in the error.
#pragma once

#include <fmt/format.h>

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/service/cluster.h"
#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"

namespace lexico::coord {

// A unary method of WorkerService.
template <typename Request, typename Response>
using WorkerMethod = grpc::Status (v1::WorkerService::StubInterface::*)(grpc::ClientContext*,
                                                                        const Request&, Response*);

template <typename Request, typename Response>
absl::Status CallWorker(Cluster& cluster, const std::string& worker_id,
                        WorkerMethod<Request, Response> method, const Request& request,
                        Response* response, absl::Duration timeout) {
  LEXICO_ASSIGN_OR_RETURN(const WorkerStub stub, cluster.StubOf(worker_id));
  grpc::ClientContext context;
  rpc::SetTimeout(context, timeout);
  const absl::Status status = rpc::FromGrpc(((*stub).*method)(&context, request, response));
  return base::Annotate(status, fmt::format("worker {}", worker_id));
}

}  // namespace lexico::coord

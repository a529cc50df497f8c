#include "coordinator/service/call_recorder.h"

#include <spdlog/spdlog.h>

#include "proto/rpc/status_map.h"

namespace lexico::coord {

grpc::Status CallRecorder::Finish(const absl::Status& status) {
  cluster_.metrics()
      .Histogram("lexico_e2e_request_latency_seconds", {method_})
      .Observe(absl::ToDoubleSeconds(cluster_.Now() - begin_));
  cluster_.metrics()
      .Counter("lexico_requests_total", {method_, absl::StatusCodeToString(status.code())})
      .Increment();
  if (absl::IsInternal(status) || absl::IsDataLoss(status)) {
    spdlog::error("{}: {}", method_, std::string(status.message()));
  }
  return rpc::ToGrpc(status);
}

}  // namespace lexico::coord

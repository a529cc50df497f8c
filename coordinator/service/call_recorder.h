// Counts one call of a client: latency and status code by method, and who is told of failures.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/service/cluster.h"

namespace lexico::coord {

class CallRecorder {
 public:
  // `method` must outlive this.
  CallRecorder(Cluster& cluster, const char* method)
      : cluster_(cluster), method_(method), begin_(cluster.Now()) {}

  absl::Time begin() const { return begin_; }

  // Counts, logs what only an operator can mend, and converts.
  grpc::Status Finish(const absl::Status& status);

 private:
  Cluster& cluster_;
  const char* method_;
  const absl::Time begin_;
};

}  // namespace lexico::coord

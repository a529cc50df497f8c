// absl::Status <-> grpc::Status. The codes are the same numbers; ErrorDetail travels in the status
// details.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace lexico::rpc {

// Attaches what programs need to a status: a stable reason word and when to retry (zero: not said).
absl::Status WithDetail(absl::Status status, std::string_view reason,
                        absl::Duration retry_after = absl::ZeroDuration());
// What WithDetail attached; "" and zero without it.
std::string ReasonOf(const absl::Status& status);
absl::Duration RetryAfterOf(const absl::Status& status);

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace lexico::rpc

#include "proto/rpc/status_map.h"

#include "absl/strings/cord.h"
#include "lexico/v1/common.pb.h"

namespace lexico::rpc {
namespace {

constexpr char kDetailUrl[] = "type.lexico.dev/lexico.v1.ErrorDetail";

v1::ErrorDetail DetailOf(const absl::Status& status) {
  v1::ErrorDetail detail;
  if (const auto payload = status.GetPayload(kDetailUrl)) {
    detail.ParseFromString(std::string(*payload));
  }
  return detail;
}

}  // namespace

absl::Status WithDetail(absl::Status status, std::string_view reason, absl::Duration retry_after) {
  if (status.ok()) return status;
  v1::ErrorDetail detail;
  detail.set_reason(std::string(reason));
  detail.set_retry_after_ms(absl::ToInt64Milliseconds(retry_after));
  status.SetPayload(kDetailUrl, absl::Cord(detail.SerializeAsString()));
  return status;
}

std::string ReasonOf(const absl::Status& status) { return DetailOf(status).reason(); }

absl::Duration RetryAfterOf(const absl::Status& status) {
  return absl::Milliseconds(DetailOf(status).retry_after_ms());
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string detail;
  if (const auto payload = status.GetPayload(kDetailUrl)) detail = std::string(*payload);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      detail);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  // A peer's details are bytes from outside: kept only when they parse.
  v1::ErrorDetail detail;
  if (!status.error_details().empty() && detail.ParseFromString(status.error_details())) {
    result.SetPayload(kDetailUrl, absl::Cord(status.error_details()));
  }
  return result;
}

}  // namespace lexico::rpc

#include "coordinator/service/registry_service.h"

#include <fmt/format.h>

#include <random>

#include "coordinator/service/call_recorder.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/validate.h"
#include "proto/base/status.h"

namespace lexico::coord {
namespace {

std::string RandomLeaseId() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

absl::Status CheckRegister(const v1::RegisterRequest& request) {
  LEXICO_RETURN_IF_ERROR(CheckName("worker_id", request.worker_id()));
  if (request.model().name().empty() || request.model().profiles().empty()) {
    return absl::InvalidArgumentError(
        fmt::format("worker {} registers a model without a name or profiles", request.worker_id()));
  }
  return absl::OkStatus();
}

}  // namespace

grpc::Status RegistryService::Register(grpc::ServerContext* context,
                                       const v1::RegisterRequest* request,
                                       v1::RegisterResponse* response) {
  CallRecorder recorder(cluster_, "Register");
  if (const absl::Status status = CheckRegister(*request); !status.ok()) {
    return recorder.Finish(status);
  }
  const Registration registration = {.worker_id = request->worker_id(),
                                     .address = request->address(),
                                     .lease_id = RandomLeaseId(),
                                     .model = ModelFromProto(request->model()),
                                     .load = LoadFromProto(request->load()),
                                     .sessions = HeldFromProto(request->sessions())};
  const auto reconciled = cluster_.Register(registration, request->model());
  if (!reconciled.ok()) return recorder.Finish(reconciled.status());
  response->set_lease_id(registration.lease_id);
  response->set_lease_ms(absl::ToInt64Milliseconds(cluster_.options().lease));
  HeldToProto(reconciled->revoked, response->mutable_revoked());
  return recorder.Finish(absl::OkStatus());
}

grpc::Status RegistryService::Heartbeat(grpc::ServerContext* context,
                                        const v1::HeartbeatRequest* request,
                                        v1::HeartbeatResponse* response) {
  CallRecorder recorder(cluster_, "Heartbeat");
  const auto reconciled = cluster_.Heartbeat(*request);
  if (!reconciled.ok()) return recorder.Finish(reconciled.status());
  HeldToProto(reconciled->revoked, response->mutable_revoked());
  return recorder.Finish(absl::OkStatus());
}

grpc::Status RegistryService::Deregister(grpc::ServerContext* context,
                                         const v1::DeregisterRequest* request,
                                         v1::DeregisterResponse* response) {
  CallRecorder recorder(cluster_, "Deregister");
  return recorder.Finish(cluster_.Deregister(*request).status());
}

}  // namespace lexico::coord

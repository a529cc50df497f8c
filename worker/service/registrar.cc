#include "worker/service/registrar.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"

namespace lexico::worker {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(5);
constexpr absl::Duration kRetryMin = absl::Milliseconds(100);
constexpr absl::Duration kRetryMax = absl::Seconds(2);

}  // namespace

Registrar::Registrar(RegistrarOptions options,
                     std::unique_ptr<v1::WorkerRegistry::StubInterface> stub, Load load,
                     Sessions sessions, Revoke revoke)
    : options_(std::move(options)),
      stub_(std::move(stub)),
      load_(std::move(load)),
      sessions_(std::move(sessions)),
      revoke_(std::move(revoke)) {
  thread_ = std::thread([this] { Run(); });
}

Registrar::~Registrar() { Stop(/*deregister=*/false); }

bool Registrar::WaitUntilRegistered(absl::Duration timeout) {
  return registered_.WaitForNotificationWithTimeout(timeout);
}

void Registrar::Stop(bool deregister) {
  if (!thread_.joinable()) return;
  stop_.Notify();
  thread_.join();
  if (deregister && !lease_id_.empty()) Deregister();
}

void Registrar::RevokeAll(const google::protobuf::RepeatedPtrField<v1::SessionAtEpoch>& revoked) {
  for (const v1::SessionAtEpoch& session : revoked) revoke_(session);
}

absl::Status Registrar::Register() {
  v1::RegisterRequest request;
  request.set_worker_id(options_.worker_id);
  request.set_address(options_.address);
  *request.mutable_model() = options_.model;
  *request.mutable_load() = load_();
  for (const v1::SessionAtEpoch& session : sessions_()) *request.add_sessions() = session;
  grpc::ClientContext context;
  rpc::SetTimeout(context, kCallTimeout);
  v1::RegisterResponse response;
  LEXICO_RETURN_IF_ERROR(rpc::FromGrpc(stub_->Register(&context, request, &response)));
  lease_id_ = response.lease_id();
  lease_ = absl::Milliseconds(response.lease_ms());
  RevokeAll(response.revoked());
  spdlog::info("registered as {} at {}, lease {}", options_.worker_id, options_.coordinator,
               absl::FormatDuration(lease_));
  if (!registered_.HasBeenNotified()) registered_.Notify();
  return absl::OkStatus();
}

absl::Status Registrar::Beat() {
  v1::HeartbeatRequest request;
  request.set_worker_id(options_.worker_id);
  request.set_lease_id(lease_id_);
  *request.mutable_load() = load_();
  for (const v1::SessionAtEpoch& session : sessions_()) *request.add_sessions() = session;
  grpc::ClientContext context;
  rpc::SetTimeout(context, std::min(kCallTimeout, lease_));
  v1::HeartbeatResponse response;
  const absl::Status status = rpc::FromGrpc(stub_->Heartbeat(&context, request, &response));
  if (status.ok()) RevokeAll(response.revoked());
  return status;
}

void Registrar::Deregister() {
  const absl::Status beat = Beat();
  if (!beat.ok()) spdlog::warn("last heartbeat not taken: {}", std::string(beat.message()));
  v1::DeregisterRequest request;
  request.set_worker_id(options_.worker_id);
  request.set_lease_id(lease_id_);
  grpc::ClientContext context;
  rpc::SetTimeout(context, kCallTimeout);
  v1::DeregisterResponse response;
  const absl::Status status = rpc::FromGrpc(stub_->Deregister(&context, request, &response));
  if (!status.ok()) spdlog::warn("not deregistered: {}", std::string(status.message()));
  lease_id_.clear();
}

void Registrar::Run() {
  absl::Duration retry = kRetryMin;
  absl::Duration wait = absl::ZeroDuration();
  while (!stop_.WaitForNotificationWithTimeout(wait)) {
    const bool is_new = lease_id_.empty();
    const absl::Status status = is_new ? Register() : Beat();
    if (status.ok()) {
      if (!is_reachable_) spdlog::info("coordinator {} answers again", options_.coordinator);
      is_reachable_ = true;
      retry = kRetryMin;
      wait = lease_ / 3;
      continue;
    }
    // Its lease is unknown there (the coordinator restarted, or the lease ran out): register again.
    if (!is_new && absl::IsFailedPrecondition(status)) {
      lease_id_.clear();
      wait = absl::ZeroDuration();
      continue;
    }
    if (is_reachable_) {
      spdlog::warn("coordinator {}: {}; trying again", options_.coordinator,
                   std::string(status.message()));
    }
    is_reachable_ = false;
    wait = retry;
    retry = std::min(retry * 2, kRetryMax);
  }
}

}  // namespace lexico::worker

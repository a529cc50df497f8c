#include "coordinator/service/admin_service.h"

#include <fmt/format.h>

#include "coordinator/service/call_recorder.h"
#include "coordinator/service/errors.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"
#include "proto/rpc/timestamp.h"

namespace lexico::coord {

grpc::Status AdminService::ListWorkers(grpc::ServerContext* context,
                                       const v1::ListWorkersRequest* request,
                                       v1::ListWorkersResponse* response) {
  CallRecorder recorder(cluster_, "ListWorkers");
  for (v1::Worker& worker : cluster_.ListWorkers()) *response->add_workers() = std::move(worker);
  return recorder.Finish(absl::OkStatus());
}

grpc::Status AdminService::DrainWorker(grpc::ServerContext* context,
                                       const v1::DrainWorkerRequest* request,
                                       grpc::ServerWriter<v1::DrainWorkerEvent>* writer) {
  CallRecorder recorder(cluster_, "DrainWorker");
  absl::Status status = cluster_.SetDraining(request->worker_id(), !request->undo());
  if (status.ok() && !request->undo()) status = Drain(context, request->worker_id(), writer);
  return recorder.Finish(status);
}

absl::Status AdminService::Drain(grpc::ServerContext* context, const std::string& worker_id,
                                 grpc::ServerWriter<v1::DrainWorkerEvent>* writer) {
  LEXICO_ASSIGN_OR_RETURN(const Caller caller, Caller::FromContext(context));
  prometheus::Gauge& remaining = cluster_.metrics().Gauge("lexico_drain_sessions_remaining");
  v1::DrainWorkerEvent event;
  std::vector<std::string> sessions = cluster_.SessionsOn(worker_id);
  event.set_n_remaining(static_cast<int64_t>(sessions.size()));
  if (!writer->Write(event)) return absl::CancelledError("the client went away");
  // Sessions may still arrive: one that was on its way when the drain began.
  for (; !sessions.empty(); sessions = cluster_.SessionsOn(worker_id)) {
    remaining.Set(static_cast<double>(sessions.size()));
    for (const std::string& session_id : sessions) {
      LEXICO_RETURN_IF_ERROR(caller.StillThere());
      LEXICO_ASSIGN_OR_RETURN(const std::string target, MoveAway(caller, worker_id, session_id));
      if (target.empty()) continue;
      event.set_session_id(session_id);
      event.set_target(target);
      event.set_n_remaining(static_cast<int64_t>(cluster_.SessionsOn(worker_id).size()));
      remaining.Set(static_cast<double>(event.n_remaining()));
      if (!writer->Write(event)) return absl::CancelledError("the client went away");
    }
  }
  remaining.Set(0);
  writer->Write(v1::DrainWorkerEvent());
  return absl::OkStatus();
}

absl::StatusOr<std::string> AdminService::MoveAway(const Caller& caller,
                                                   const std::string& worker_id,
                                                   const std::string& session_id) {
  auto hold = cluster_.BeginMove(caller, session_id, {.wait_for_call = true, .any_tenant = true});
  if (absl::IsNotFound(hold.status())) return "";
  if (!hold.ok()) return hold.status();
  const Session before = cluster_.Held(*hold);
  if (before.placement != Placement::kResident || before.worker != worker_id) return "";
  const absl::Status migrated = mover_.Migrate(caller, *hold, "");
  Session after = cluster_.Held(*hold);
  if (after.placement == Placement::kResident && after.worker != worker_id) return after.worker;
  // Nobody had room. It is still here, or in the store already.
  const absl::Status offloaded = mover_.Offload(*hold);
  if (!offloaded.ok()) {
    return base::Annotate(offloaded, fmt::format("session {} stays on worker {} ({})", session_id,
                                                 worker_id, std::string(migrated.message())));
  }
  return "store";
}

grpc::Status AdminService::ListOrphans(grpc::ServerContext* context,
                                       const v1::ListOrphansRequest* request,
                                       v1::ListOrphansResponse* response) {
  CallRecorder recorder(cluster_, "ListOrphans");
  if (store_ == nullptr) return recorder.Finish(NoStoreGiven());
  // The store first: a session is written down here before it can be there.
  const auto stored = store_->List(request->start_after());
  if (!stored.ok()) return recorder.Finish(stored.status());
  for (v1::Orphan& orphan : cluster_.OrphansAmong(stored->entries())) {
    *response->add_orphans() = std::move(orphan);
  }
  if (stored->more()) {
    response->set_next_start_after(stored->entries(stored->entries_size() - 1).session_id());
  }
  return recorder.Finish(absl::OkStatus());
}

grpc::Status AdminService::DeleteOrphan(grpc::ServerContext* context,
                                        const v1::DeleteOrphanRequest* request,
                                        v1::DeleteOrphanResponse* response) {
  CallRecorder recorder(cluster_, "DeleteOrphan");
  if (store_ == nullptr) return recorder.Finish(NoStoreGiven());
  google::protobuf::RepeatedPtrField<v1::ManifestEntry> entries;
  v1::ManifestEntry* entry = entries.Add();
  entry->set_session_id(request->session_id());
  absl::Time create_time = absl::InfinitePast();
  if (request->has_create_time()) {
    *entry->mutable_create_time() = request->create_time();
    create_time = rpc::TimeFromProto(request->create_time());
  }
  if (cluster_.OrphansAmong(entries).empty()) {
    return recorder.Finish(rpc::WithDetail(
        absl::FailedPreconditionError(fmt::format(
            "session {} is known here; DeleteSession deletes it", request->session_id())),
        "session_known"));
  }
  return recorder.Finish(store_->Delete(request->session_id(), request->epoch(), create_time));
}

grpc::Status AdminService::GetStoreStatus(grpc::ServerContext* context,
                                          const v1::GetStatusRequest* request,
                                          v1::StoreStatus* response) {
  CallRecorder recorder(cluster_, "GetStoreStatus");
  if (store_ == nullptr) return recorder.Finish(NoStoreGiven());
  auto status = store_->Status();
  if (status.ok()) *response = *std::move(status);
  return recorder.Finish(status.status());
}

grpc::Status AdminService::VerifyStore(grpc::ServerContext* context,
                                       const v1::VerifyRequest* request,
                                       grpc::ServerWriter<v1::VerifyProgress>* writer) {
  CallRecorder recorder(cluster_, "VerifyStore");
  if (store_ == nullptr) return recorder.Finish(NoStoreGiven());
  return recorder.Finish(store_->Verify(
      *context, *request,
      [writer](const v1::VerifyProgress& progress) { return writer->Write(progress); }));
}

}  // namespace lexico::coord

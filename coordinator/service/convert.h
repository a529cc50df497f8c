// Between our plain types and the messages of proto/lexico/v1: the only place where both meet.
#pragma once

#include <vector>

#include "coordinator/admission/admission.h"
#include "coordinator/registry/types.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "lexico/v1/admin.pb.h"
#include "lexico/v1/cache_store.pb.h"
#include "lexico/v1/common.pb.h"
#include "lexico/v1/worker.pb.h"

namespace lexico::coord {

WorkerModel ModelFromProto(const v1::ModelInfo& info);
WorkerLoad LoadFromProto(const v1::WorkerLoad& load);
v1::WorkerLoad LoadToProto(const WorkerLoad& load);

std::vector<HeldSession> HeldFromProto(
    const google::protobuf::RepeatedPtrField<v1::SessionAtEpoch>& sessions);
void HeldToProto(const std::vector<HeldSession>& sessions,
                 google::protobuf::RepeatedPtrField<v1::SessionAtEpoch>* out);

// What a worker says about a session; placement, owner and times are the coordinator's.
// Whether the store's entry is of this session, not of another one of its id: births are compared,
// in microseconds, as they travel.
bool IsOfSession(const v1::ManifestEntry& entry, const Session& session);
// As its worker said last; at first the one it was born with.
const std::string& ProfileNow(const Session& session);

SessionFacts FactsFromProto(const v1::Session& session);
v1::Session SessionToProto(const Session& session, Activity activity);
v1::SessionState StateOf(const Session& session, Activity activity);

v1::Worker WorkerToProto(const Worker& worker, const v1::ModelInfo& model);

}  // namespace lexico::coord

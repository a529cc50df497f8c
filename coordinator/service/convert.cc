#include "coordinator/service/convert.h"

#include <fmt/format.h>

#include "proto/base/check.h"
#include "proto/rpc/timestamp.h"

namespace lexico::coord {
namespace {

v1::WorkerState WorkerStateToProto(WorkerState state) {
  switch (state) {
    case WorkerState::kReady:
      return v1::WORKER_STATE_READY;
    case WorkerState::kDraining:
      return v1::WORKER_STATE_DRAINING;
    case WorkerState::kDrained:
      return v1::WORKER_STATE_DRAINED;
    case WorkerState::kLost:
      return v1::WORKER_STATE_LOST;
  }
  LEXICO_UNREACHABLE();
}

}  // namespace

WorkerModel ModelFromProto(const v1::ModelInfo& info) {
  return {.name = info.name(),
          .identity = fmt::format("{}/{}/{}", info.fingerprint(), info.dictionary_fingerprint(),
                                  info.tokenizer_fingerprint()),
          .profiles = {info.profiles().begin(), info.profiles().end()},
          .has_chat_template = info.has_chat_template()};
}

WorkerLoad LoadFromProto(const v1::WorkerLoad& load) {
  return {.n_pages_free = load.n_pages_free(),
          .n_pages = load.n_pages(),
          .n_running = load.n_running(),
          .n_waiting = load.n_waiting(),
          .n_waiting_max = load.n_waiting_max(),
          .code_bytes = load.code_bytes(),
          .fp16_equivalent_bytes = load.fp16_equivalent_bytes(),
          .n_pages_behind = load.n_pages_behind()};
}

v1::WorkerLoad LoadToProto(const WorkerLoad& load) {
  v1::WorkerLoad out;
  out.set_n_pages_free(load.n_pages_free);
  out.set_n_pages(load.n_pages);
  out.set_n_running(load.n_running);
  out.set_n_waiting(load.n_waiting);
  out.set_n_waiting_max(load.n_waiting_max);
  out.set_code_bytes(load.code_bytes);
  out.set_fp16_equivalent_bytes(load.fp16_equivalent_bytes);
  out.set_n_pages_behind(load.n_pages_behind);
  return out;
}

std::vector<HeldSession> HeldFromProto(
    const google::protobuf::RepeatedPtrField<v1::SessionAtEpoch>& sessions) {
  std::vector<HeldSession> out;
  out.reserve(static_cast<size_t>(sessions.size()));
  for (const auto& session : sessions) out.push_back({session.session_id(), session.epoch()});
  return out;
}

void HeldToProto(const std::vector<HeldSession>& sessions,
                 google::protobuf::RepeatedPtrField<v1::SessionAtEpoch>* out) {
  for (const HeldSession& session : sessions) {
    v1::SessionAtEpoch* added = out->Add();
    added->set_session_id(session.session_id);
    added->set_epoch(session.epoch);
  }
}

bool IsOfSession(const v1::ManifestEntry& entry, const Session& session) {
  return entry.session_id() == session.session_id && entry.has_create_time() &&
         rpc::TimeFromProto(entry.create_time()) ==
             absl::FromUnixMicros(absl::ToUnixMicros(session.create_time));
}

SessionFacts FactsFromProto(const v1::Session& session) {
  const v1::MemoryUse& memory = session.memory();
  return {.tier = session.tier(),
          .n_tokens = session.n_tokens(),
          .n_sealed_tokens = session.n_sealed_tokens(),
          .n_durable_tokens = session.n_durable_tokens(),
          .code_bytes = memory.code_bytes(),
          .window_bytes = memory.window_bytes(),
          .bookkeeping_bytes = memory.bookkeeping_bytes(),
          .fp16_equivalent_bytes = memory.fp16_equivalent_bytes(),
          .relative_error_k = session.relative_error_k(),
          .relative_error_v = session.relative_error_v(),
          .profile = session.profile()};
}

const std::string& ProfileNow(const Session& session) {
  return session.facts.profile.empty() ? session.profile : session.facts.profile;
}

v1::SessionState StateOf(const Session& session, Activity activity) {
  if (activity == Activity::kCall) return v1::SESSION_STATE_BUSY;
  if (activity == Activity::kMove) return v1::SESSION_STATE_MOVING;
  switch (session.placement) {
    case Placement::kResident:
      return v1::SESSION_STATE_READY;
    case Placement::kOffloaded:
      return v1::SESSION_STATE_OFFLOADED;
    case Placement::kRecovering:
      return v1::SESSION_STATE_RECOVERING;
  }
  LEXICO_UNREACHABLE();
}

v1::Session SessionToProto(const Session& session, Activity activity) {
  v1::Session out;
  out.set_session_id(session.session_id);
  out.set_model(session.model);
  out.set_profile(ProfileNow(session));
  out.set_birth_profile(session.profile);
  out.set_min_profile(session.min_profile);
  out.set_format(static_cast<v1::TextFormat>(session.format));
  out.set_state(StateOf(session, activity));
  // What a worker that has it no more said last is no place.
  const auto tier = static_cast<v1::Tier>(session.facts.tier);
  const bool is_resident = session.placement == Placement::kResident;
  out.set_tier(tier == v1::TIER_DEVICE && !is_resident ? v1::TIER_UNSPECIFIED : tier);
  if (is_resident) out.set_worker(session.worker);
  out.set_epoch(session.epoch);
  out.set_n_tokens(session.facts.n_tokens);
  out.set_n_sealed_tokens(session.facts.n_sealed_tokens);
  out.set_n_durable_tokens(session.facts.n_durable_tokens);
  v1::MemoryUse* memory = out.mutable_memory();
  memory->set_code_bytes(session.facts.code_bytes);
  memory->set_window_bytes(session.facts.window_bytes);
  memory->set_bookkeeping_bytes(session.facts.bookkeeping_bytes);
  memory->set_fp16_equivalent_bytes(session.facts.fp16_equivalent_bytes);
  if (session.facts.fp16_equivalent_bytes > 0) {
    const auto held = static_cast<double>(session.facts.code_bytes + session.facts.window_bytes +
                                          session.facts.bookkeeping_bytes);
    memory->set_fraction_of_fp16(held / static_cast<double>(session.facts.fp16_equivalent_bytes));
  }
  out.set_relative_error_k(session.facts.relative_error_k);
  out.set_relative_error_v(session.facts.relative_error_v);
  *out.mutable_create_time() = rpc::TimeToProto(session.create_time);
  *out.mutable_last_use_time() = rpc::TimeToProto(session.last_use_time);
  out.set_parent_session_id(session.parent);
  out.set_tenant(session.tenant);
  return out;
}

v1::Worker WorkerToProto(const Worker& worker, const v1::ModelInfo& model) {
  v1::Worker out;
  out.set_worker_id(worker.worker_id);
  out.set_address(worker.address);
  out.set_state(WorkerStateToProto(worker.state));
  *out.mutable_model() = model;
  *out.mutable_load() = LoadToProto(worker.load);
  out.set_n_sessions(worker.n_sessions);
  *out.mutable_last_heartbeat_time() = rpc::TimeToProto(worker.last_heartbeat);
  return out;
}

}  // namespace lexico::coord

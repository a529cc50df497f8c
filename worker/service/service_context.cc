#include "worker/service/service_context.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "absl/time/clock.h"
#include "proto/rpc/status_map.h"
#include "proto/rpc/timestamp.h"
#include "worker/engine/errors.h"

namespace lexico::worker {

absl::Status FromEngine(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  if (status.ok() || reason.empty()) return status;
  return rpc::WithDetail(absl::Status(status.code(), status.message()), reason,
                         RetryAfterOf(status));
}

absl::Status Leaving(const ServiceContext& context) {
  return absl::UnavailableError(fmt::format("worker {} is shutting down", context.worker_id));
}

absl::StatusOr<SessionTable::Use> AcquireSession(ServiceContext& context,
                                                 const v1::SessionAtEpoch& session) {
  if (context.phase != Phase::kServing) return Leaving(context);
  auto use = context.table->Acquire(session.session_id(), session.epoch());
  if (absl::IsAborted(use.status()) && session.epoch() > 0) {
    DropSession(context, session.session_id(), session.epoch() - 1);
  }
  return use;
}

bool DropSession(ServiceContext& context, const std::string& session_id, uint64_t epoch_max) {
  if (!context.table->Drop(session_id, epoch_max)) return false;
  const absl::Status status = context.engine->Drop(session_id);
  if (!status.ok()) {
    spdlog::warn("session {} not dropped: {}", session_id, std::string(status.message()));
  }
  return true;
}

v1::Session SessionToProto(const ServiceContext& context, const SessionRecord& record,
                           const SessionInfo& info) {
  v1::Session out;
  out.set_session_id(record.session_id);
  out.set_model(context.model.name());
  out.set_profile(info.profile);
  out.set_birth_profile(info.birth_profile);
  out.set_min_profile(info.min_profile);
  out.set_format(record.conversation.format());
  out.set_state(info.busy ? v1::SESSION_STATE_BUSY : v1::SESSION_STATE_READY);
  out.set_tier(v1::TIER_DEVICE);
  out.set_worker(context.worker_id);
  out.set_epoch(record.epoch);
  out.set_n_tokens(info.n_tokens);
  out.set_n_sealed_tokens(info.n_sealed_tokens);
  out.set_n_durable_tokens(std::min(record.n_durable_tokens, info.n_tokens));
  v1::MemoryUse* memory = out.mutable_memory();
  memory->set_code_bytes(info.memory.code_bytes);
  memory->set_window_bytes(info.memory.window_bytes);
  memory->set_bookkeeping_bytes(info.memory.bookkeeping_bytes);
  memory->set_fp16_equivalent_bytes(info.memory.fp16_equivalent_bytes);
  if (info.memory.fp16_equivalent_bytes > 0) {
    memory->set_fraction_of_fp16(static_cast<double>(info.memory.held_bytes()) /
                                 static_cast<double>(info.memory.fp16_equivalent_bytes));
  }
  out.set_relative_error_k(info.mean_error.k);
  out.set_relative_error_v(info.mean_error.v);
  *out.mutable_create_time() = rpc::TimeToProto(record.create_time);
  *out.mutable_last_use_time() = rpc::TimeToProto(record.last_use_time);
  out.set_parent_session_id(record.parent_session_id);
  out.set_tenant(record.tenant);
  out.set_prefill_fraction(info.busy ? record.prefill_fraction->load() : 0);
  return out;
}

absl::StatusOr<v1::Session> DescribeSession(const ServiceContext& context,
                                            const SessionRecord& record) {
  const absl::StatusOr<SessionInfo> info = context.engine->Describe(record.session_id);
  if (!info.ok()) return FromEngine(info.status());
  return SessionToProto(context, record, *info);
}

v1::Usage UsageToProto(const CallUsage& usage) {
  v1::Usage out;
  out.set_n_context_tokens(usage.n_context_tokens);
  out.set_n_prompt_tokens(usage.n_prompt_tokens);
  out.set_n_generated_tokens(usage.n_generated_tokens);
  return out;
}

v1::Timing TimingToProto(const CallTiming& timing) {
  v1::Timing out;
  out.set_queue_us(absl::ToInt64Microseconds(timing.queue));
  out.set_prefill_us(absl::ToInt64Microseconds(timing.prefill));
  out.set_coding_us(absl::ToInt64Microseconds(timing.coding));
  out.set_first_token_us(absl::ToInt64Microseconds(timing.first_token));
  out.set_decode_us(absl::ToInt64Microseconds(timing.decode));
  return out;
}

absl::Time DeadlineOf(const grpc::ServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

CallRecorder::CallRecorder(base::Metrics* metrics, std::string method)
    : metrics_(metrics), method_(std::move(method)), begin_(absl::Now()) {}

grpc::Status CallRecorder::Finish(const absl::Status& status) {
  metrics_
      ->Counter("lexico_requests_total",
                {method_, std::string(absl::StatusCodeToString(status.code()))})
      .Increment();
  metrics_->Histogram("lexico_e2e_request_latency_seconds", {method_})
      .Observe(absl::ToDoubleSeconds(absl::Now() - begin_));
  return rpc::ToGrpc(status);
}

}  // namespace lexico::worker

#include "worker/engine/engine_metrics.h"

#include <algorithm>

namespace lexico::worker {
namespace {

std::string FinishWord(const absl::StatusOr<CallResult>& result) {
  if (result.ok()) {
    switch (result->reason) {
      case FinishReason::kStop:
        return "stop";
      case FinishReason::kStopString:
        return "stop_string";
      case FinishReason::kLength:
        return "length";
    }
  }
  return absl::IsCancelled(result.status()) ? "cancelled" : "error";
}

}  // namespace

EngineMetrics::EngineMetrics(base::Metrics* metrics) : metrics_(metrics) {}

void EngineMetrics::OnRejected(std::string_view reason) {
  metrics_->Counter("lexico_admission_rejections_total", {std::string(reason)}).Increment();
}

void EngineMetrics::OnStarted(const CallUsage& usage, absl::Duration queue) {
  metrics_->Histogram("lexico_request_queue_seconds").Observe(absl::ToDoubleSeconds(queue));
  metrics_->Histogram("lexico_request_prompt_tokens")
      .Observe(static_cast<double>(usage.n_prompt_tokens));
  metrics_->Counter("lexico_prompt_tokens_total")
      .Increment(static_cast<double>(usage.n_prompt_tokens));
  metrics_->Counter("lexico_reused_tokens_total")
      .Increment(static_cast<double>(usage.n_context_tokens));
}

void EngineMetrics::OnFirstToken(absl::Duration since_call) {
  metrics_->Histogram("lexico_time_to_first_token_seconds")
      .Observe(absl::ToDoubleSeconds(since_call));
  metrics_->Counter("lexico_generation_tokens_total").Increment();
}

void EngineMetrics::OnNextToken(absl::Duration since_last) {
  metrics_->Histogram("lexico_inter_token_latency_seconds")
      .Observe(absl::ToDoubleSeconds(since_last));
  metrics_->Counter("lexico_generation_tokens_total").Increment();
}

void EngineMetrics::OnFinished(const absl::StatusOr<CallResult>& result, bool generate) {
  if (!generate) return;
  metrics_->Counter("lexico_request_finish_total", {FinishWord(result)}).Increment();
  if (!result.ok()) return;
  metrics_->Histogram("lexico_request_generation_tokens")
      .Observe(static_cast<double>(result->usage.n_generated_tokens));
}

void EngineMetrics::OnStep(std::string_view phase, absl::Duration took) {
  metrics_->Histogram("lexico_step_seconds", {std::string(phase)})
      .Observe(absl::ToDoubleSeconds(took));
}

void EngineMetrics::OnLaunch(StepLaunch launch) {
  const char* const words[] = {"ops", "recorded", "replayed"};
  metrics_->Counter("lexico_decode_steps_total", {words[static_cast<int>(launch)]}).Increment();
}

void EngineMetrics::OnCoded(int64_t n_vectors, absl::Duration took) {
  if (n_vectors == 0) return;
  metrics_->Histogram("lexico_coding_seconds").Observe(absl::ToDoubleSeconds(took));
  for (const char* kind : {"k", "v"}) {
    metrics_->Counter("lexico_coded_vectors_total", {kind})
        .Increment(static_cast<double>(n_vectors) / 2);
  }
}

void EngineMetrics::OnNonFinite(KvKind kind) {
  metrics_->Counter("lexico_non_finite_vectors_total", {kind == KvKind::kKey ? "k" : "v"})
      .Increment();
}

void EngineMetrics::OnDemoted(const DemotionReport& report) {
  metrics_->Counter("lexico_kv_demotions_total", {report.by_call ? "call" : "memory"}).Increment();
  metrics_->Counter("lexico_kv_demoted_pages_total").Increment(static_cast<double>(report.n_pages));
  metrics_->Counter("lexico_kv_demotion_freed_bytes_total")
      .Increment(static_cast<double>(std::max<int64_t>(report.freed_bytes, 0)));
  metrics_->Histogram("lexico_kv_demotion_seconds").Observe(absl::ToDoubleSeconds(report.took));
}

void EngineMetrics::OnSealed(std::span<const PageExport> pages) {
  for (const PageExport& page : pages) {
    if (page.header.shape.kind != store::PageKind::kCodes) return;
    metrics_->Histogram("lexico_kv_reconstruction_error", {"k"})
        .Observe(page.header.relative_error_k);
    metrics_->Histogram("lexico_kv_reconstruction_error", {"v"})
        .Observe(page.header.relative_error_v);
  }
}

void EngineMetrics::SetLoad(const EngineLoad& load, int n_busy_sessions) {
  const auto set = [this](std::string_view name, double value,
                          const std::vector<std::string>& labels = {}) {
    metrics_->Gauge(name, labels).Set(value);
  };
  set("lexico_requests_running", load.n_running);
  set("lexico_requests_waiting", load.n_waiting);
  set("lexico_kv_code_bytes", static_cast<double>(load.memory.code_bytes), {"device"});
  set("lexico_kv_window_bytes", static_cast<double>(load.memory.window_bytes));
  set("lexico_kv_fp16_equivalent_bytes", static_cast<double>(load.memory.fp16_equivalent_bytes),
      {"device"});
  const auto held = static_cast<double>(load.memory.held_bytes());
  set("lexico_kv_compression_ratio",
      held > 0 ? static_cast<double>(load.memory.fp16_equivalent_bytes) / held : 0);
  set("lexico_kv_pages_free", static_cast<double>(load.n_pages_free));
  set("lexico_kv_pages_used", static_cast<double>(load.pool.used_blocks));
  set("lexico_sessions", load.n_sessions - n_busy_sessions, {"ready"});
  set("lexico_sessions", n_busy_sessions, {"busy"});
}

}  // namespace lexico::worker

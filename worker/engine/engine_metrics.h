// The engine's rows of proto/base/metrics_table.cc.
#pragma once

#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/base/metrics.h"
#include "worker/engine/engine.h"
#include "worker/engine/step_graphs.h"

namespace lexico::worker {

// Thread safety: all methods may be called from any thread.
class EngineMetrics {
 public:
  // `metrics` must outlive it.
  explicit EngineMetrics(base::Metrics* metrics);

  void OnRejected(std::string_view reason);
  void OnStarted(const CallUsage& usage, absl::Duration queue);
  void OnFirstToken(absl::Duration since_call);
  void OnNextToken(absl::Duration since_last);
  void OnFinished(const absl::StatusOr<CallResult>& result, bool generate);
  void OnStep(std::string_view phase, absl::Duration took);
  void OnLaunch(StepLaunch launch);
  void OnCoded(int64_t n_vectors, absl::Duration took);
  void OnNonFinite(KvKind kind);
  void OnDemoted(const DemotionReport& report);
  void OnSealed(std::span<const PageExport> pages);
  void SetLoad(const EngineLoad& load, int n_busy_sessions);

 private:
  base::Metrics* const metrics_;
};

}  // namespace lexico::worker

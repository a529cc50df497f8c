// Prometheus metrics of every process, declared once in metrics_table.cc.
//
// The table is the only place for a name, kind, help text, buckets and label names; it generates
// docs/metrics.md (`lexico metrics --markdown`), and the tidy test fails when the page differs.
// Rules: base units (seconds, bytes), counters end in _total, latencies are histograms, label
// values come from enums and never from users. prometheus-cpp does the counting and the HTTP
// exposition.
//
// A Metrics object is passed in, never global, so that tests do not share one.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace lexico::base {

enum class MetricKind { kCounter, kGauge, kHistogram };

struct MetricInfo {
  std::string_view name;
  MetricKind kind;
  std::string_view help;
  std::span<const double> buckets;            // upper edges, histograms only
  std::vector<std::string_view> label_names;  // in the order of the values given at use
  std::string_view processes;                 // "coordinator, worker, store", for the page
};

// Every metric of the system, in the order of docs/metrics.md.
const std::vector<MetricInfo>& MetricsTable();

// The text of docs/metrics.md.
std::string MetricsMarkdown();

class Metrics {
 public:
  // `process` becomes the constant label process="...".
  explicit Metrics(std::string_view process);

  // `name` must be in the table with that kind and as many labels as values: anything else is a bug
  // in our code and CHECK-fails. The reference stays valid as long as this object.
  prometheus::Counter& Counter(std::string_view name, const std::vector<std::string>& labels = {});
  prometheus::Gauge& Gauge(std::string_view name, const std::vector<std::string>& labels = {});
  prometheus::Histogram& Histogram(std::string_view name,
                                   const std::vector<std::string>& labels = {});

  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

  // Serves GET /metrics on `address` ("127.0.0.1:9091"; port 0 picks one) until this object ends.
  // Unavailable with the address when the port is taken. Returns the port.
  absl::StatusOr<int> Serve(const std::string& address);

 private:
  struct Families;
  prometheus::Labels LabelsFor(const MetricInfo& info,
                               const std::vector<std::string>& values) const;
  static const MetricInfo& Find(std::string_view name, MetricKind kind);

  prometheus::Labels constant_labels_;
  std::shared_ptr<prometheus::Registry> registry_;
  absl::Mutex mutex_;
  std::map<std::string, prometheus::Family<prometheus::Counter>*, std::less<>> counters_
      ABSL_GUARDED_BY(mutex_);
  std::map<std::string, prometheus::Family<prometheus::Gauge>*, std::less<>> gauges_
      ABSL_GUARDED_BY(mutex_);
  std::map<std::string, prometheus::Family<prometheus::Histogram>*, std::less<>> histograms_
      ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace lexico::base

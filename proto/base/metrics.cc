#include "proto/base/metrics.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <exception>

#include "proto/base/check.h"

namespace lexico::base {
namespace {

// One family per name, registered at its first use.
template <typename Metric, typename Builder>
prometheus::Family<Metric>& FamilyFor(
    std::map<std::string, prometheus::Family<Metric>*, std::less<>>& families, Builder builder,
    const MetricInfo& info, const prometheus::Labels& labels, prometheus::Registry& registry) {
  auto it = families.find(info.name);
  if (it == families.end()) {
    auto& family = builder.Name(std::string(info.name))
                       .Help(std::string(info.help))
                       .Labels(labels)
                       .Register(registry);
    it = families.emplace(info.name, &family).first;
  }
  return *it->second;
}

std::string_view KindName(MetricKind kind) {
  switch (kind) {
    case MetricKind::kCounter:
      return "counter";
    case MetricKind::kGauge:
      return "gauge";
    case MetricKind::kHistogram:
      return "histogram";
  }
  LEXICO_UNREACHABLE();
}

}  // namespace

std::string MetricsMarkdown() {
  std::string out =
      "# Metrics\n\nGenerated from proto/base/metrics_table.cc by `lexico metrics --markdown`; do "
      "not edit. Every process serves them as\n`GET /metrics` on its metrics port and adds the "
      "label "
      "`process`.\n\n| metric | kind | labels | processes | meaning |\n|---|---|---|---|---|\n";
  for (const MetricInfo& info : MetricsTable()) {
    out += fmt::format("| `{}` | {} | {} | {} | {} |\n", info.name, KindName(info.kind),
                       fmt::join(info.label_names, ", "), info.processes, info.help);
  }
  absl::StrAppend(&out, "\n## Histogram bucket edges\n\n");
  for (const MetricInfo& info : MetricsTable()) {
    if (info.kind != MetricKind::kHistogram) continue;
    out += fmt::format("- `{}`: {}\n", info.name, fmt::join(info.buckets, " "));
  }
  return out;
}

Metrics::Metrics(std::string_view process)
    : constant_labels_{{"process", std::string(process)}},
      registry_(std::make_shared<prometheus::Registry>()) {}

const MetricInfo& Metrics::Find(std::string_view name, MetricKind kind) {
  for (const MetricInfo& info : MetricsTable()) {
    if (info.name != name) continue;
    if (info.kind != kind) {
      CheckFailed(__FILE__, __LINE__,
                  fmt::format("metric {} is a {}, used as a {}", name, KindName(info.kind),
                              KindName(kind)));
    }
    return info;
  }
  CheckFailed(__FILE__, __LINE__, fmt::format("metric {} is not in the table", name));
}

prometheus::Labels Metrics::LabelsFor(const MetricInfo& info,
                                      const std::vector<std::string>& values) const {
  LEXICO_CHECK_EQ(values.size(), info.label_names.size());
  prometheus::Labels labels;
  for (size_t i = 0; i < values.size(); ++i) labels[std::string(info.label_names[i])] = values[i];
  return labels;
}

prometheus::Counter& Metrics::Counter(std::string_view name,
                                      const std::vector<std::string>& labels) {
  const MetricInfo& info = Find(name, MetricKind::kCounter);
  absl::MutexLock lock(&mutex_);
  return FamilyFor(counters_, prometheus::BuildCounter(), info, constant_labels_, *registry_)
      .Add(LabelsFor(info, labels));
}

prometheus::Gauge& Metrics::Gauge(std::string_view name, const std::vector<std::string>& labels) {
  const MetricInfo& info = Find(name, MetricKind::kGauge);
  absl::MutexLock lock(&mutex_);
  return FamilyFor(gauges_, prometheus::BuildGauge(), info, constant_labels_, *registry_)
      .Add(LabelsFor(info, labels));
}

prometheus::Histogram& Metrics::Histogram(std::string_view name,
                                          const std::vector<std::string>& labels) {
  const MetricInfo& info = Find(name, MetricKind::kHistogram);
  absl::MutexLock lock(&mutex_);
  return FamilyFor(histograms_, prometheus::BuildHistogram(), info, constant_labels_, *registry_)
      .Add(LabelsFor(info, labels),
           prometheus::Histogram::BucketBoundaries(info.buckets.begin(), info.buckets.end()));
}

absl::StatusOr<int> Metrics::Serve(const std::string& address) {
  try {
    exposer_ = std::make_unique<prometheus::Exposer>(address, /*num_threads=*/1);
  } catch (const std::exception& error) {
    return absl::UnavailableError(fmt::format(
        "cannot serve metrics on {}: {}; choose another --metrics_address", address, error.what()));
  }
  exposer_->RegisterCollectable(registry_);
  const std::vector<int> ports = exposer_->GetListeningPorts();
  LEXICO_CHECK_EQ(ports.size(), 1u);
  return ports[0];
}

}  // namespace lexico::base

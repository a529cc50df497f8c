// The metrics table keeps its rules, and Metrics its promises.
#include "proto/base/metrics.h"

#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include "tests/support/status_matchers.h"

namespace lexico::base {
namespace {

using tests::IsOk;
using tests::StatusIs;

TEST(MetricsTableTest, NamesAreUniqueAndWellFormed) {
  const std::regex pattern("lexico_[a-z0-9]+(_[a-z0-9]+)*");
  std::set<std::string> seen;
  for (const MetricInfo& info : MetricsTable()) {
    const std::string name(info.name);
    EXPECT_TRUE(std::regex_match(name, pattern)) << name;
    EXPECT_TRUE(seen.insert(name).second) << name << " is in the table twice";
    EXPECT_FALSE(info.help.empty()) << name;
    EXPECT_TRUE(info.help.ends_with('.')) << name;
    EXPECT_FALSE(info.processes.empty()) << name;
  }
}

TEST(MetricsTableTest, CountersEndInTotalAndOnlyThey) {
  for (const MetricInfo& info : MetricsTable()) {
    EXPECT_EQ(info.name.ends_with("_total"), info.kind == MetricKind::kCounter) << info.name;
  }
}

TEST(MetricsTableTest, HistogramsHaveIncreasingEdgesAndOnlyThey) {
  for (const MetricInfo& info : MetricsTable()) {
    EXPECT_EQ(!info.buckets.empty(), info.kind == MetricKind::kHistogram) << info.name;
    for (size_t i = 1; i < info.buckets.size(); ++i) {
      EXPECT_LT(info.buckets[i - 1], info.buckets[i]) << info.name << " edge " << i;
    }
  }
}

TEST(MetricsTableTest, TimesAreInSecondsAndSizesInBytes) {
  for (const MetricInfo& info : MetricsTable()) {
    for (const char* unit : {"_ms", "_us", "_milliseconds", "_kb", "_mb", "_gb"}) {
      EXPECT_EQ(info.name.find(std::string(unit) + "_"), std::string_view::npos) << info.name;
      EXPECT_FALSE(info.name.ends_with(unit)) << info.name;
    }
  }
}

TEST(MetricsTableTest, LabelsNameNoUserData) {
  for (const MetricInfo& info : MetricsTable()) {
    for (const std::string_view label : info.label_names) {
      for (const char* forbidden : {"session", "tenant", "user", "prompt"}) {
        EXPECT_EQ(label.find(forbidden), std::string_view::npos) << info.name << " " << label;
      }
    }
  }
}

TEST(MetricsTableTest, TheDocumentIsUpToDate) {
  std::ifstream file(LEXICO_METRICS_PAGE);
  ASSERT_TRUE(file) << LEXICO_METRICS_PAGE;
  const std::string page(std::istreambuf_iterator<char>(file), {});
  EXPECT_EQ(page, MetricsMarkdown()) << "run: lexico metrics --markdown > docs/metrics.md";
}

TEST(MetricsTest, PageHasARowForEveryMetric) {
  const std::string page = MetricsMarkdown();
  for (const MetricInfo& info : MetricsTable()) {
    EXPECT_NE(page.find("| `" + std::string(info.name) + "` |"), std::string::npos) << info.name;
  }
}

TEST(MetricsTest, CountsAreExposedWithProcessAndLabels) {
  Metrics metrics("coordinator");
  metrics.Counter("lexico_requests_total", {"Generate", "OK"}).Increment(3);
  metrics.Gauge("lexico_journal_bytes").Set(7);
  metrics.Histogram("lexico_migration_seconds").Observe(0.2);
  EXPECT_EQ(metrics.Counter("lexico_requests_total", {"Generate", "OK"}).Value(), 3);
  const std::string text = prometheus::TextSerializer().Serialize(metrics.registry()->Collect());
  EXPECT_NE(text.find("lexico_requests_total{"), std::string::npos) << text;
  EXPECT_NE(text.find("process=\"coordinator\""), std::string::npos) << text;
  EXPECT_NE(text.find("method=\"Generate\""), std::string::npos) << text;
  EXPECT_NE(text.find("lexico_migration_seconds_bucket"), std::string::npos) << text;
}

TEST(MetricsDeathTest, UnknownNameWrongKindAndWrongLabelsAreBugs) {
  Metrics metrics("test");
  EXPECT_DEATH(metrics.Counter("lexico_nothing_total"), "not in the table");
  EXPECT_DEATH(metrics.Gauge("lexico_requests_total", {"a", "b"}), "used as a gauge");
  EXPECT_DEATH(metrics.Counter("lexico_requests_total", {"a"}), "CHECK failed");
}

TEST(MetricsTest, PortInUseIsUnavailableWithTheAddress) {
  Metrics first("test"), second("test");
  const auto port = first.Serve("127.0.0.1:0");
  ASSERT_THAT(port, IsOk());
  EXPECT_GT(*port, 0);
  const std::string address = "127.0.0.1:" + std::to_string(*port);
  EXPECT_THAT(second.Serve(address), StatusIs(absl::StatusCode::kUnavailable, address));
}

}  // namespace
}  // namespace lexico::base

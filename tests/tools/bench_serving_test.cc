// The parts of lexico-bench-serving that need no service: arrivals, percentiles, options, tallies.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "proto/rpc/status_map.h"
#include "tests/support/status_matchers.h"
#include "tools/bench_serving/arrivals.h"
#include "tools/bench_serving/options.h"
#include "tools/bench_serving/report.h"
#include "tools/bench_serving/statistics.h"
#include "tools/bench_serving/text.h"

namespace lexico::bench_serving {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

TEST(ArrivalsTest, AreThoseOfTheSeedAndRise) {
  const std::vector<double> times = PoissonArrivals(2, 100, 7);
  EXPECT_EQ(times, PoissonArrivals(2, 100, 7));
  EXPECT_NE(times, PoissonArrivals(2, 100, 8));
  EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
  EXPECT_GE(times[0], 0);
  EXPECT_TRUE(PoissonArrivals(2, 0, 7).empty());
}

// Gaps of a Poisson process are exponential: mean and standard deviation are both 1 / rate, and
// 1 - 1/e of them are below the mean. Bounds are five standard errors of 20,000 gaps.
TEST(ArrivalsTest, HaveTheRateAndAreExponential) {
  constexpr int kN = 20000;
  const std::vector<double> times = PoissonArrivals(4, kN, 1);
  const double mean = times.back() / kN;
  EXPECT_NEAR(mean, 0.25, 5 * 0.25 / std::sqrt(kN));
  int n_below = 0;
  double squares = 0;
  for (size_t i = 0; i < times.size(); ++i) {
    const double gap = times[i] - (i == 0 ? 0 : times[i - 1]);
    n_below += gap < 0.25 ? 1 : 0;
    squares += gap * gap;
  }
  EXPECT_NEAR(n_below / static_cast<double>(kN), 1 - std::exp(-1), 5 * 0.5 / std::sqrt(kN));
  EXPECT_NEAR(squares / kN, 2 * 0.25 * 0.25, 5 * std::sqrt(20.0) / 16 / std::sqrt(kN));
}

TEST(StatisticsTest, PercentilesOfAHandMadeList) {
  const Summary ten = Summarize({10, 9, 8, 7, 6, 5, 4, 3, 2, 1});
  EXPECT_EQ(ten.n, 10u);
  EXPECT_DOUBLE_EQ(ten.mean, 5.5);
  EXPECT_DOUBLE_EQ(ten.p50, 5.5);
  EXPECT_DOUBLE_EQ(ten.p90, 9.1);
  EXPECT_DOUBLE_EQ(ten.p99, 9.91);
  EXPECT_DOUBLE_EQ(ten.max, 10);
  EXPECT_DOUBLE_EQ(Percentile({1, 2, 3, 4, 5}, 0.9), 4.6);
  EXPECT_DOUBLE_EQ(Percentile({1, 2}, 1), 2);
}

TEST(StatisticsTest, TinyLists) {
  EXPECT_EQ(Summarize({}), Summary());
  const Summary one = Summarize({3});
  EXPECT_EQ(one, (Summary{.n = 1, .mean = 3, .p50 = 3, .p90 = 3, .p99 = 3, .max = 3}));
  const Summary two = Summarize({4, 2});
  EXPECT_DOUBLE_EQ(two.p50, 3);
  EXPECT_DOUBLE_EQ(two.p99, 3.98);
}

absl::Status Parse(std::vector<const char*> arguments, Options* options) {
  arguments.insert(arguments.begin(), "lexico-bench-serving");
  return ParseOptions(static_cast<int>(arguments.size()), arguments.data(), options);
}

void ExpectRefused(const std::vector<const char*>& arguments, const char* part) {
  Options options;
  EXPECT_THAT(Parse(arguments, &options), StatusIs(StatusCode::kInvalidArgument, part));
}

TEST(BenchServingOptionsTest, LoadsAndDefaults) {
  Options closed;
  ASSERT_THAT(Parse({"--users", "3", "--profiles", "dense"}, &closed), IsOk());
  EXPECT_FALSE(closed.is_open());
  EXPECT_EQ(closed.sessions, 3);
  EXPECT_EQ(closed.profiles, std::vector<std::string>{"dense"});
  Options open;
  ASSERT_THAT(Parse({"--rate", "0.5", "--address", "[::1]:7"}, &open), IsOk());
  EXPECT_TRUE(open.is_open());
  EXPECT_EQ(open.sessions, 20);
  EXPECT_EQ(open.globals.server, "[::1]:7");
  EXPECT_EQ(open.profiles, (std::vector<std::string>{"dense", "paper-s16"}));
}

TEST(BenchServingOptionsTest, WrongOnesAreNamedWithWhatIsRight) {
  ExpectRefused({}, "--users N (closed loop) or --rate R (open loop)");
  ExpectRefused({"--users", "2", "--rate", "1.5"}, "--rate 1.5 is an open loop and --users 2");
  ExpectRefused({"--users", "0"}, "--users");
  ExpectRefused({"--rate", "-1"}, "--rate");
  ExpectRefused({"--users", "4", "--sessions", "2"}, "--sessions 2 is less than --users 4");
  ExpectRefused({"--users", "1", "--address", "nowhere"}, "--address");
  ExpectRefused({"--users", "1", "--tenant", "a\nb"}, "0x0a");
  ExpectRefused({"--users", "1", "--questions", "0", "--document_tokens", "0"}, "--questions 0");
  ExpectRefused({"--users", "1", "--question", "1"}, "--questions");
}

TEST(BenchServingTextTest, WordsAreThoseOfTheSeed) {
  const std::string text = RandomWords(100, 3);
  EXPECT_EQ(text, RandomWords(100, 3));
  EXPECT_NE(text, RandomWords(100, 4));
  EXPECT_EQ(std::count_if(text.begin(), text.end(), [](char c) { return c == ' ' || c == '\n'; }),
            99);
  EXPECT_EQ(RandomWords(0, 3), "");
}

TEST(TallyTest, ReasonsAreThoseOfTheServerElseTheCode) {
  const absl::Status full = rpc::WithDetail(absl::ResourceExhaustedError("no room"), "queue_full");
  EXPECT_TRUE(IsRefusal(full));
  EXPECT_TRUE(IsRefusal(rpc::WithDetail(absl::UnavailableError("x"), "no_worker")));
  EXPECT_FALSE(IsRefusal(absl::UnavailableError("x")));
  EXPECT_FALSE(IsRefusal(absl::OkStatus()));
  Tally one;
  one.Count(&one.refusals, full);
  one.Count(&one.errors, absl::NotFoundError("gone"));
  Tally all;
  all.Add(one);
  all.Add(one);
  EXPECT_EQ(all.refusals.at("queue_full").n, 2);
  EXPECT_EQ(all.refusals.at("queue_full").example, "no room");
  EXPECT_EQ(all.errors.at("not_found").n, 2);
}

TEST(ReportTest, NothingMeasuredIsNullAndTheVerdictNamesWhatIsLeft) {
  ProfileResult result{.profile = "dense"};
  const auto json = ReportToJson({.users = 1}, {result});
  EXPECT_TRUE(json["profiles"][0]["kv"]["fraction_of_fp16"].is_null());
  EXPECT_EQ(json["profiles"][0]["generated_tokens_per_second"], 0);
  EXPECT_THAT(Verdict({result}), IsOk());
  result.tally.n_visits = result.tally.n_refused = 3;
  EXPECT_THAT(Verdict({result}), StatusIs(StatusCode::kResourceExhausted, "0 of 3 visits"));
  result.tally.left = {"bench-1"};
  EXPECT_THAT(Verdict({result}), StatusIs(StatusCode::kInternal, "left behind: bench-1"));
}

}  // namespace
}  // namespace lexico::bench_serving

// lexico-bench-serving against a coordinator with fake workers in this process.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "absl/time/clock.h"
#include "tests/coordinator/cluster_fixture.h"
#include "tools/bench_serving/bench.h"

namespace lexico::coord {
namespace {

struct Done {
  int exit_code = 0;
  std::string out;
  std::string err;
  nlohmann::json profile(size_t i) const { return nlohmann::json::parse(out)["profiles"][i]; }
};

class BenchServingTest : public ClusterFixture {
 protected:
  Done Bench(const std::vector<std::string>& flags) {
    std::vector<const char*> argv = {"lexico-bench-serving", "--address", address_.c_str()};
    for (const std::string& flag : flags) argv.push_back(flag.c_str());
    std::ostringstream out;
    std::ostringstream err;
    Done done;
    done.exit_code =
        bench_serving::Bench(static_cast<int>(argv.size()), argv.data(), stop_, out, err);
    done.out = out.str();
    done.err = err.str();
    return done;
  }

  // The fake's tokens are bytes and its memory 10 bytes a token, a tenth of FP16.
  void ExpectVisits(const nlohmann::json& profile, int n_visits) {
    EXPECT_EQ(profile["visits"]["begun"], n_visits);
    EXPECT_EQ(profile["visits"]["done"], n_visits);
    EXPECT_EQ(profile["latency_seconds"]["append"]["n"], n_visits);
    EXPECT_EQ(profile["latency_seconds"]["first_token"]["n"], 2 * n_visits);
    EXPECT_EQ(profile["latency_seconds"]["inter_token"]["n"], 2 * 4 * n_visits);
    EXPECT_EQ(profile["latency_seconds"]["answer"]["n"], 2 * n_visits);
    EXPECT_EQ(profile["latency_seconds"]["visit"]["n"], n_visits);
    EXPECT_EQ(profile["n_generated_tokens"], 2 * 5 * n_visits);
    EXPECT_GT(profile["n_prompt_tokens"], 450 * n_visits);
    EXPECT_DOUBLE_EQ(profile["kv"]["fraction_of_fp16"], 0.1);
    EXPECT_EQ(profile["kv"]["n_sessions"], n_visits);
    EXPECT_TRUE(profile["errors"].empty());
  }

  std::atomic<bool> stop_{false};
};

const std::vector<std::string> kSmall = {
    "--document_tokens", "500", "--questions", "2", "--new", "5", "--json"};

std::vector<std::string> Small(std::vector<std::string> flags) {
  flags.insert(flags.end(), kSmall.begin(), kSmall.end());
  return flags;
}

TEST_F(BenchServingTest, ClosedLoopCountsEveryVisitAndLeavesNothing) {
  AddWorker("w1");
  const Done done = Bench(Small({"--users", "3", "--sessions", "7"}));
  EXPECT_EQ(done.exit_code, 0) << done.err;
  EXPECT_EQ(done.profile(0)["profile"], "dense");
  EXPECT_EQ(done.profile(1)["profile"], "paper-s16");
  ExpectVisits(done.profile(0), 7);
  ExpectVisits(done.profile(1), 7);
  EXPECT_TRUE(List().empty());
}

TEST_F(BenchServingTest, OpenLoopCountsEveryVisitAndLeavesNothing) {
  AddWorker("w1");
  const Done done =
      Bench(Small({"--rate", "50", "--sessions", "10", "--profiles", "dense", "--warmup", "1"}));
  EXPECT_EQ(done.exit_code, 0) << done.err;
  ExpectVisits(done.profile(0), 10);
  EXPECT_TRUE(List().empty());
}

TEST_F(BenchServingTest, TableShowsLatenciesRatesAndMemory) {
  AddWorker("w1");
  const Done done = Bench({"--users", "1", "--document_tokens", "100", "--new", "3"});
  EXPECT_EQ(done.exit_code, 0) << done.err;
  for (const char* part : {"first token", "inter-token", "GENERATED/S", "10.0 %", "paper-s16"}) {
    EXPECT_NE(done.out.find(part), std::string::npos) << part << "\n" << done.out;
  }
}

class BenchServingFullTest : public BenchServingTest {
 protected:
  void SetUp() override {
    options_.admission.calls_max = 1;
    BenchServingTest::SetUp();
    AddWorker("w1").set_token_delay(absl::Milliseconds(10));
  }
  // Refusals as the report has them: all of one reason.
  int64_t ExpectQueueFull(const nlohmann::json& profile) {
    EXPECT_EQ(profile["refusals"].size(), 1u);
    if (profile["refusals"].empty()) return 0;
    EXPECT_EQ(profile["refusals"][0]["reason"], "queue_full");
    return profile["refusals"][0]["n"];
  }
};

TEST_F(BenchServingFullTest, ClosedLoopComesBackWhenTheServiceSays) {
  const Done done = Bench(Small({"--users", "3", "--profiles", "dense"}));
  EXPECT_EQ(done.exit_code, 0) << done.err;
  const nlohmann::json profile = done.profile(0);
  ExpectVisits(profile, 3);
  EXPECT_EQ(profile["n_retries"], ExpectQueueFull(profile));
  EXPECT_GT(profile["n_retries"], 0);
  EXPECT_GT(profile["retry_wait_seconds"], 0);
  EXPECT_TRUE(List().empty());
}

TEST_F(BenchServingFullTest, OpenLoopCountsRefusedVisits) {
  const Done done = Bench(Small({"--rate", "1000", "--sessions", "12", "--profiles", "dense"}));
  const nlohmann::json visits = done.profile(0)["visits"];
  const int64_t n_refused = visits["refused"];
  EXPECT_EQ(ExpectQueueFull(done.profile(0)), n_refused);
  EXPECT_GT(n_refused, 0);
  EXPECT_EQ(n_refused + visits["done"].get<int64_t>(), 12);
  EXPECT_EQ(done.profile(0)["n_retries"], 0);
  EXPECT_TRUE(List().empty());
}

TEST_F(BenchServingTest, ErrorsAreCountedByReasonAndFailTheRun) {
  AddWorker("w1").FailRun(
      rpc::WithDetail(absl::FailedPreconditionError("the context is full"), "context_full"));
  const Done done = Bench(Small({"--users", "2", "--profiles", "dense"}));
  EXPECT_EQ(done.exit_code, 1);
  EXPECT_NE(done.err.find("2 of 2 visits failed"), std::string::npos) << done.err;
  EXPECT_EQ(done.profile(0)["visits"]["failed"], 2);
  EXPECT_EQ(done.profile(0)["errors"][0]["reason"], "context_full");
  EXPECT_EQ(done.profile(0)["errors"][0]["n"], 2);
  EXPECT_TRUE(List().empty());
}

TEST_F(BenchServingTest, NobodyThereAndNoWorkerAreSaidOnce) {
  const Done no_worker = Bench(Small({"--users", "2"}));
  EXPECT_EQ(no_worker.exit_code, 3);
  EXPECT_NE(no_worker.err.find("no worker"), std::string::npos) << no_worker.err;
  StopCoordinator();
  const Done nobody = Bench(Small({"--users", "2"}));
  EXPECT_EQ(nobody.exit_code, 3);
  EXPECT_NE(nobody.err.find("is a server running at " + address_), std::string::npos) << nobody.err;
  EXPECT_EQ(nobody.out, "");
  StartCoordinator();
}

TEST_F(BenchServingTest, CoordinatorThatGoesAwayEndsTheLoadWithWhatWasDone) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(5));
  std::thread killer([&] {
    Eventually([&] { return WorkerAt("w1").n_tokens_sent() > 30; }, "visits are made");
    StopCoordinator();
  });
  const Done done = Bench(Small({"--users", "1", "--sessions", "100000", "--profiles", "dense"}));
  killer.join();
  EXPECT_EQ(done.exit_code, 3);
  EXPECT_NE(done.err.find("is a server running at " + address_), std::string::npos) << done.err;
  EXPECT_GT(done.profile(0)["visits"]["done"], 1);
  EXPECT_LT(done.profile(0)["visits"]["begun"], 100000);
  StartCoordinator();
}

TEST_F(BenchServingTest, WorkerThatIsUnavailableDoesNotEndTheLoad) {
  AddWorker("w1").FailRun(absl::UnavailableError("worker w1 is shutting down"));
  const Done done = Bench(Small({"--users", "1", "--sessions", "2", "--profiles", "dense"}));
  EXPECT_EQ(done.exit_code, 1);
  EXPECT_EQ(done.profile(0)["visits"]["failed"], 2);
  EXPECT_TRUE(List().empty());
}

TEST_F(BenchServingTest, UnknownProfileAndWrongUsageSayWhatIsRight) {
  AddWorker("w1");
  const Done profile = Bench(Small({"--users", "1", "--profiles", "papier"}));
  EXPECT_EQ(profile.exit_code, 1);
  EXPECT_NE(profile.err.find("allowed are dense"), std::string::npos) << profile.err;
  const Done usage = Bench({});
  EXPECT_EQ(usage.exit_code, 2);
  EXPECT_NE(usage.err.find("--users N"), std::string::npos) << usage.err;
}

TEST_F(BenchServingTest, InterruptedRunDeletesItsSessions) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(20));
  std::thread interrupter([&] {
    Eventually([&] { return WorkerAt("w1").n_tokens_sent() > 3; }, "tokens flow");
    stop_ = true;
  });
  const Done done = Bench({"--users", "2", "--new", "10000", "--document_tokens", "100", "--json"});
  interrupter.join();
  EXPECT_EQ(done.exit_code, 0) << done.err;
  EXPECT_EQ(done.profile(0)["visits"]["interrupted"], 2);
  EXPECT_TRUE(List().empty());
}

}  // namespace
}  // namespace lexico::coord

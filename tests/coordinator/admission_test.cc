#include "coordinator/admission/admission.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace lexico::coord {
namespace {

const absl::Time kNow = absl::UnixEpoch() + absl::Hours(1);

TEST(AdmissionTest, OneActivityPerSession) {
  Admission admission({});
  ASSERT_TRUE(admission.BeginCall("s", "", kNow).ok());
  EXPECT_EQ(admission.BeginCall("s", "", kNow).refusal, Refusal::kSessionBusy);
  EXPECT_EQ(admission.BeginMove("s").refusal, Refusal::kSessionBusy);
  admission.End("s", kNow);
  ASSERT_TRUE(admission.BeginMove("s").ok());
  EXPECT_EQ(admission.BeginCall("s", "", kNow).refusal, Refusal::kSessionMoving);
  EXPECT_EQ(admission.BeginMove("s").refusal, Refusal::kSessionMoving);
  EXPECT_EQ(admission.ActivityOf("s"), Activity::kMove);
  admission.End("s", kNow);
  EXPECT_EQ(admission.ActivityOf("s"), Activity::kNone);
}

TEST(AdmissionTest, BoundsRefuseWithBothNumbers) {
  Admission admission({.calls_max = 2, .worker_calls_max = 1, .tenant_calls_max = 1});
  ASSERT_TRUE(admission.BeginCall("a", "t1", kNow).ok());
  const Admitted tenant = admission.BeginCall("b", "t1", kNow);
  EXPECT_EQ(tenant.refusal, Refusal::kTenantFull);
  EXPECT_EQ(tenant.in_flight, 1);
  EXPECT_EQ(tenant.bound, 1);
  ASSERT_TRUE(admission.BeginCall("b", "t2", kNow).ok());
  const Admitted global = admission.BeginCall("c", "t3", kNow);
  EXPECT_EQ(global.refusal, Refusal::kQueueFull);
  EXPECT_EQ(global.in_flight, 2);
  ASSERT_TRUE(admission.AssignWorker("a", "w1").ok());
  EXPECT_TRUE(admission.IsWorkerFull("w1"));
  EXPECT_EQ(admission.AssignWorker("b", "w1").refusal, Refusal::kWorkerFull);
  EXPECT_EQ(admission.WorkerCalls("w1"), 1);
  admission.End("a", kNow);
  EXPECT_TRUE(admission.AssignWorker("b", "w1").ok());
}

TEST(AdmissionTest, MovesHaveNoBound) {
  Admission admission({.calls_max = 1});
  ASSERT_TRUE(admission.BeginCall("a", "", kNow).ok());
  EXPECT_TRUE(admission.BeginMove("b").ok());
  EXPECT_TRUE(admission.BeginMove("c").ok());
}

TEST(AdmissionTest, ReassignedCallCountsOnce) {
  Admission admission({});
  ASSERT_TRUE(admission.BeginCall("a", "", kNow).ok());
  ASSERT_TRUE(admission.AssignWorker("a", "w1").ok());
  ASSERT_TRUE(admission.AssignWorker("a", "w2").ok());
  EXPECT_EQ(admission.WorkerCalls("w1"), 0);
  EXPECT_EQ(admission.WorkerCalls("w2"), 1);
}

// Two places, calls of 4 s: one ends every 2 s. The first refused is told 2 s, the next 4 s.
TEST(AdmissionTest, RetryAfterIsWhenTheNextPlaceIsExpected) {
  Admission admission({.calls_max = 2});
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(admission.BeginCall("x", "", kNow).ok());
    admission.End("x", kNow + absl::Seconds(4));
  }
  ASSERT_TRUE(admission.BeginCall("a", "", kNow).ok());
  ASSERT_TRUE(admission.BeginCall("b", "", kNow).ok());
  const absl::Duration first = admission.BeginCall("c", "", kNow).retry_after;
  const absl::Duration second = admission.BeginCall("d", "", kNow).retry_after;
  EXPECT_NEAR(absl::ToDoubleSeconds(first), 2, 0.01);
  EXPECT_NEAR(absl::ToDoubleSeconds(second), 4, 0.01);
  for (int i = 0; i < 1000; ++i) (void)admission.BeginCall("e", "", kNow);
  EXPECT_EQ(admission.BeginCall("f", "", kNow).retry_after, absl::Seconds(30));
}

TEST(AdmissionTest, ClockThatStepsBackDoesNoHarm) {
  Admission admission({.calls_max = 1});
  ASSERT_TRUE(admission.BeginCall("a", "", kNow).ok());
  admission.End("a", kNow - absl::Hours(1));
  ASSERT_TRUE(admission.BeginCall("a", "", kNow).ok());
  EXPECT_GE(admission.BeginCall("b", "", kNow).retry_after, absl::Milliseconds(50));
}

TEST(AdmissionPropertyTest, BoundsHoldUnderRandomCallsAndNothingIsLeft) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); };
    const AdmissionLimits limits{
        .calls_max = 1 + below(6), .worker_calls_max = 1 + below(4), .tenant_calls_max = below(4)};
    Admission admission(limits);
    struct Model {
      std::string tenant, worker;
      bool is_call;
    };
    std::map<std::string, Model> active;
    for (int step = 0; step < 400; ++step) {
      const std::string session = "s" + std::to_string(below(8));
      const std::string tenant = "t" + std::to_string(below(3));
      const std::string worker = "w" + std::to_string(below(2));
      switch (below(4)) {
        case 0:
          if (admission.BeginCall(session, tenant, kNow).ok()) {
            ASSERT_TRUE(active.emplace(session, Model{tenant, "", true}).second);
          }
          break;
        case 1:
          if (admission.BeginMove(session).ok()) {
            ASSERT_TRUE(active.emplace(session, Model{"", "", false}).second);
          }
          break;
        case 2:
          if (active.contains(session) && active[session].is_call) {
            active[session].worker = admission.AssignWorker(session, worker).ok() ? worker : "";
          }
          break;
        default:
          if (active.erase(session) > 0) admission.End(session, kNow + absl::Seconds(below(5)));
      }
      std::map<std::string, int> by_tenant, by_worker;
      int n_calls = 0;
      for (const auto& [id, model] : active) {
        n_calls += model.is_call;
        if (model.is_call) ++by_tenant[model.tenant];
        if (!model.worker.empty()) ++by_worker[model.worker];
      }
      ASSERT_EQ(admission.calls_in_flight(), n_calls);
      ASSERT_LE(n_calls, limits.calls_max);
      for (const auto& [id, n] : by_tenant) {
        if (limits.tenant_calls_max > 0) {
          ASSERT_LE(n, limits.tenant_calls_max);
        }
      }
      for (const auto& [id, n] : by_worker) {
        ASSERT_EQ(admission.WorkerCalls(id), n);
        ASSERT_LE(n, limits.worker_calls_max);
      }
    }
    for (const auto& [id, model] : active) admission.End(id, kNow);
    EXPECT_EQ(admission.calls_in_flight(), 0);
    EXPECT_EQ(admission.WorkerCalls("w0") + admission.WorkerCalls("w1"), 0);
  }
}

}  // namespace
}  // namespace lexico::coord

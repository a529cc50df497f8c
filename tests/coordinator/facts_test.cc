// ListSessions and GetSession tell the same, and listing asks no worker.
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/coordinator/cluster_fixture.h"

namespace lexico::coord {
namespace {

using google::protobuf::util::MessageDifferencer;
using tests::IsOk;

class FactsTest : public ClusterFixture {
 protected:
  // Of a session's list entry and a look at it right after.
  void ExpectListedAsShown(const std::string& id) {
    const v1::Session listed = List()[id];
    const auto shown = Get(id);
    ASSERT_THAT(shown, IsOk());
    EXPECT_TRUE(MessageDifferencer::Equals(listed, *shown)) << listed.ShortDebugString() << "\n"
                                                            << shown->ShortDebugString();
  }
};

TEST_F(FactsTest, ListTellsWhatShowTellsAfterEveryCallAndMove) {
  AddWorker("w1");
  AddWorker("w2");
  ASSERT_THAT(Create("s"), IsOk());
  ExpectListedAsShown("s");
  ASSERT_THAT(Append("s", {"a document"}), IsOk());
  ExpectListedAsShown("s");
  ASSERT_THAT(Generate("s", "question", 70).status, IsOk());
  const v1::Session listed = List()["s"];
  EXPECT_EQ(listed.n_tokens(), 10 + 8 + 70);
  EXPECT_EQ(listed.memory().code_bytes(), 880u);
  EXPECT_EQ(listed.memory().fraction_of_fp16(), 0.1);
  ExpectListedAsShown("s");
  ASSERT_THAT(Migrate("s"), IsOk());
  ExpectListedAsShown("s");
  ASSERT_THAT(Offload("s"), IsOk());
  ExpectListedAsShown("s");
}

TEST_F(FactsTest, ListFollowsARunningCallAndOneThatWasCancelled) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(10));
  ASSERT_THAT(Create("s"), IsOk());
  const auto context = Context();
  Answer answer;
  std::thread running([&] { answer = Generate("s", "question", 1000, context.get()); });
  Eventually([&] { return WorkerAt("w1").n_tokens_sent() > 5; }, "tokens flow");
  EXPECT_EQ(List()["s"].state(), v1::SESSION_STATE_BUSY);
  context->TryCancel();
  running.join();
  // The worker keeps what it generated before it noticed.
  Eventually([&] { return List()["s"].n_tokens() > 13; }, "nobody asked GetSession");
  absl::SleepFor(2 * options_.facts_age);
  ExpectListedAsShown("s");
}

TEST_F(FactsTest, AnAnswerThatACallOvertookChangesNothing) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  WorkerAt("w1").set_describe_delay(absl::Milliseconds(300));
  const int n_before = WorkerAt("w1").n_describes();
  std::thread slow([&] { EXPECT_THAT(Get("s"), IsOk()); });
  Eventually([&] { return WorkerAt("w1").n_describes() > n_before; }, "the worker is asked");
  const auto appended = Append("s", {"a document"});
  ASSERT_THAT(appended, IsOk());
  EXPECT_EQ(appended->session().n_tokens(), 10);
  slow.join();
  EXPECT_EQ(List()["s"].n_tokens(), 10);
}

TEST_F(FactsTest, SessionsThatRestAreNotAskedFor) {
  AddWorker("w1");
  for (int i = 0; i < 20; ++i) ASSERT_THAT(Create("s" + std::to_string(i)), IsOk());
  int n_before = -1;
  Eventually(
      [&] {
        const int n = std::exchange(n_before, WorkerAt("w1").n_describes());
        absl::SleepFor(3 * options_.facts_age);
        return n == WorkerAt("w1").n_describes();
      },
      "the background comes to rest");
  for (int i = 0; i < 50; ++i) EXPECT_EQ(List().size(), 20u);
  EXPECT_EQ(WorkerAt("w1").n_describes(), n_before);
}

TEST_F(FactsTest, TierOfASessionWhoseWorkerWasLostIsNoDevice) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  ASSERT_THAT(Append("s", {"text"}), IsOk());
  EXPECT_EQ(List()["s"].tier(), v1::TIER_DEVICE);
  WorkerAt("w1").Kill();
  Eventually([&] { return List()["s"].state() == v1::SESSION_STATE_RECOVERING; }, "lease ends");
  EXPECT_EQ(List()["s"].tier(), v1::TIER_UNSPECIFIED);
  ExpectListedAsShown("s");
}

}  // namespace
}  // namespace lexico::coord

// Sessions while processes die: workers killed, silent, restarted, drained; the coordinator
// restarted. What a client was told is never lost, and a stream goes on without gap or repeat.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "absl/time/clock.h"
#include "tests/coordinator/cluster_fixture.h"

namespace lexico::coord {
namespace {

using tests::IsOk;
using tests::StatusIs;
using enum absl::StatusCode;

class FailoverTest : public ClusterFixture {
 protected:
  // Two workers and sessions of equal content; returns the worker of the first.
  std::string Prepare(const std::vector<std::string>& ids) {
    AddWorker("w1");
    AddWorker("w2");
    for (const std::string& id : ids) {
      EXPECT_THAT(Create(id), IsOk());
      EXPECT_THAT(Append(id, {"a long document"}), IsOk());
    }
    return Get(ids.front())->worker();
  }
};

TEST_F(FailoverTest, WorkerKilledMidGenerateContinuesElsewhereWithoutGapOrRepeat) {
  const std::string holder = Prepare({"killed", "whole"});
  const Answer whole = Generate("whole", "question", 60);
  ASSERT_THAT(whole.status, IsOk());
  for (const char* id : {"w1", "w2"}) WorkerAt(id).set_token_delay(absl::Milliseconds(4));
  const int n_before = WorkerAt(holder).n_tokens_sent();
  std::thread killer([&] {
    Eventually([&] { return WorkerAt(holder).n_tokens_sent() >= n_before + 20; }, "tokens flow");
    WorkerAt(holder).Kill();
  });
  const Answer killed = Generate("killed", "question", 60);
  killer.join();
  ASSERT_THAT(killed.status, IsOk());
  EXPECT_EQ(killed.ids, whole.ids);
  EXPECT_EQ(killed.text, whole.text);
  EXPECT_TRUE(killed.in_order);
  EXPECT_EQ(killed.n_started, 1);
  EXPECT_EQ(killed.n_finished, 1);
  // The same call to both, and another one than that of "whole".
  const std::vector<std::string> first = WorkerAt(holder).call_ids();
  const std::vector<std::string> second = WorkerAt(Other(holder)).call_ids();
  ASSERT_EQ(first.size() + second.size(), 3u);
  EXPECT_EQ(first.back().size(), 16u);
  EXPECT_EQ(first.back(), second.back());
  EXPECT_NE(first.front() == first.back(), second.front() == second.back());
  EXPECT_EQ(Get("killed")->worker(), Other(holder));
  EXPECT_EQ(MetricSum("lexico_recoveries_total"), 1);
}

TEST_F(FailoverTest, AnswerThatFinishedIsFinishedOnceHoweverItsStreamEnds) {
  const std::string holder = Prepare({"s"});
  for (const absl::Status& end : {absl::UnavailableError("socket closed"),
                                  absl::AbortedError("epoch"), absl::InternalError("broken")}) {
    WorkerAt(holder).FailAfterFinished(end);
    const int64_t n_before = Get("s")->n_tokens();
    const Answer answer = Generate("s", "question", 3);
    EXPECT_THAT(answer.status, IsOk()) << end;
    EXPECT_EQ(answer.n_finished, 1) << end;
    EXPECT_EQ(answer.ids.size(), 3u) << end;
    EXPECT_EQ(Get("s")->n_tokens(), n_before + 8 + 3) << end;
  }
  EXPECT_EQ(WorkerAt(Other(holder)).n_runs(), 0);
}

TEST_F(FailoverTest, OnlyWorkerThatRestartsContinuesTheStream) {
  AddWorker("w1");
  for (const char* id : {"killed", "whole"}) {
    ASSERT_THAT(Create(id), IsOk());
    ASSERT_THAT(Append(id, {"text"}), IsOk());
  }
  const Answer whole = Generate("whole", "q", 30);
  WorkerAt("w1").set_token_delay(absl::Milliseconds(5));
  const int n_before = WorkerAt("w1").n_tokens_sent();
  std::thread killer([&] {
    Eventually([&] { return WorkerAt("w1").n_tokens_sent() >= n_before + 5; }, "tokens flow");
    WorkerAt("w1").Kill();
    workers_["w3"] = std::make_unique<tests::FakeWorker>(
        tests::FakeWorkerOptions{.worker_id = "w3", .coordinator = address_}, store_);
  });
  const Answer killed = Generate("killed", "q", 30);
  killer.join();
  ASSERT_THAT(killed.status, IsOk());
  EXPECT_EQ(killed.ids, whole.ids);
}

TEST_F(FailoverTest, WithoutAnyWorkerLeftTheCallGivesUp) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(5));
  ASSERT_THAT(Create("s"), IsOk());
  ASSERT_THAT(Append("s", {"text"}), IsOk());
  std::thread killer([&] {
    Eventually([&] { return WorkerAt("w1").n_tokens_sent() >= 5; }, "tokens flow");
    WorkerAt("w1").Kill();
  });
  const absl::Time begin = absl::Now();
  const Answer answer = Generate("s", "q", 10000);
  killer.join();
  EXPECT_THAT(answer.status, StatusIs(kUnavailable, ""));
  EXPECT_EQ(rpc::ReasonOf(answer.status), "no_worker");
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_EQ(Get("s")->state(), v1::SESSION_STATE_RECOVERING);
}

TEST_F(FailoverTest, UnusedSessionOfAKilledWorkerIsOpenedAgain) {
  AddWorker("w1");
  v1::CreateSessionRequest request;
  request.set_session_id("s");
  request.set_system_prompt("be brief");
  ASSERT_THAT(Create(request), IsOk());
  AddWorker("w2");
  WorkerAt("w1").Kill();
  ASSERT_THAT(Generate("s", "q", 2).status, IsOk());
  EXPECT_EQ(Get("s")->worker(), "w2");
  EXPECT_EQ(Get("s")->n_tokens(), 11);  // the system prompt is there again
}

TEST_F(FailoverTest, AppendInterruptedByDeathIsRefusedAndItsRetryWorks) {
  const std::string holder = Prepare({"s"});
  const auto context = Context();
  v1::AppendTextResponse response;
  const auto writer = inference_->AppendText(context.get(), &response);
  v1::AppendTextRequest message;
  message.set_session_id("s");
  message.set_text("more text");
  const size_t n_before = WorkerAt(holder).append_bytes();
  ASSERT_TRUE(writer->Write(message));
  Eventually([&] { return WorkerAt(holder).append_bytes() > n_before; }, "the chunk arrived");
  WorkerAt(holder).Kill();
  writer->WritesDone();
  const absl::Status status = rpc::FromGrpc(writer->Finish());
  EXPECT_THAT(status, StatusIs(kUnavailable, "only if GetSession shows as many tokens"));
  EXPECT_EQ(rpc::ReasonOf(status), "worker_lost");
  const auto retried = Append("s", {"more text"});
  ASSERT_THAT(retried, IsOk());
  EXPECT_EQ(retried->session().n_tokens(), 15 + 9);
  EXPECT_EQ(retried->session().worker(), Other(holder));
}

TEST_F(FailoverTest, SilentWorkersSessionsAreRecoveringAfterTheLease) {
  const std::string holder = Prepare({"s"});
  WorkerAt(holder).Kill();
  Eventually([&] { return StateOfWorker(holder) == v1::WORKER_STATE_LOST; }, "lease ended");
  EXPECT_EQ(Get("s")->state(), v1::SESSION_STATE_RECOVERING);
  EXPECT_EQ(Get("s")->worker(), "");
  EXPECT_THAT(Generate("s", "q", 2).status, IsOk());
  EXPECT_EQ(Get("s")->worker(), Other(holder));
}

TEST_F(FailoverTest, LateOwnerIsRevokedAtItsNextHeartbeat) {
  AddWorker("w1", {.beats = false});
  ASSERT_TRUE(WorkerAt("w1").Register().ok());
  ASSERT_THAT(Create("s"), IsOk());
  ASSERT_THAT(Append("s", {"text"}), IsOk());
  AddWorker("w2");
  Eventually([&] { return StateOfWorker("w1") == v1::WORKER_STATE_LOST; }, "w1 fell silent");
  ASSERT_THAT(Generate("s", "q", 1).status, IsOk());
  EXPECT_TRUE(WorkerAt("w1").Holds("s"));
  EXPECT_EQ(WorkerAt("w1").Beat().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  ASSERT_TRUE(WorkerAt("w1").Register().ok());
  EXPECT_FALSE(WorkerAt("w1").Holds("s"));
  EXPECT_EQ(Get("s")->worker(), "w2");
}

TEST_F(FailoverTest, FormerOwnerKeepsItsCopyWhileNobodyCanTakeTheSessionUp) {
  const std::string holder = Prepare({"s"});
  const absl::Status store_down =
      rpc::WithDetail(absl::UnavailableError("the cache store hangs"), "store_unavailable");
  WorkerAt(holder).FailRun(absl::UnavailableError("socket closed"));
  for (const char* id : {"w1", "w2"}) WorkerAt(id).FailRestore(store_down);
  EXPECT_THAT(Generate("s", "q", 1).status, StatusIs(kUnavailable, "the cache store hangs"));
  EXPECT_EQ(Get("s")->state(), v1::SESSION_STATE_RECOVERING);
  const uint64_t epoch = Get("s")->epoch();
  EXPECT_GT(epoch, WorkerAt(holder).EpochOf("s"));
  ASSERT_TRUE(WorkerAt(holder).Beat().ok());
  EXPECT_TRUE(WorkerAt(holder).Holds("s"));
  // It is the first to be asked when the store is back, whatever the load.
  WorkerAt(holder).FailRun(absl::OkStatus());
  WorkerAt(holder).set_n_pages_free(1);
  ASSERT_TRUE(WorkerAt(holder).Beat().ok());
  for (const char* id : {"w1", "w2"}) WorkerAt(id).FailRestore(absl::OkStatus());
  EXPECT_THAT(Generate("s", "q", 1).status, IsOk());
  EXPECT_EQ(Get("s")->worker(), holder);
}

TEST_F(FailoverTest, TwoWorkersThatMissTheStoreAreEnough) {
  Prepare({"s"});
  AddWorker("w3");
  ASSERT_THAT(Offload("s"), IsOk());
  const uint64_t epoch = Get("s")->epoch();
  for (const char* id : {"w1", "w2", "w3"}) {
    WorkerAt(id).FailRestore(
        rpc::WithDetail(absl::UnavailableError("the cache store hangs"), "store_unavailable"));
  }
  EXPECT_THAT(Generate("s", "q", 1).status, StatusIs(kUnavailable, "the cache store hangs"));
  EXPECT_EQ(Get("s")->epoch(), epoch + 4);  // to a worker and back, twice
  EXPECT_EQ(Get("s")->state(), v1::SESSION_STATE_OFFLOADED);
}

TEST_F(FailoverTest, WorkerThatFailsByItselfIsNotTakenForLost) {
  const std::string holder = Prepare({"s"});
  WorkerAt(holder).FailRun(
      rpc::WithDetail(absl::UnavailableError("the store does not answer"), "store_down"));
  const uint64_t epoch = Get("s")->epoch();
  EXPECT_THAT(Generate("s", "q", 1).status, StatusIs(kUnavailable, "the store does not answer"));
  EXPECT_EQ(Get("s")->epoch(), epoch);
  EXPECT_EQ(Get("s")->worker(), holder);
}

TEST_F(FailoverTest, SessionOfALostWorkerCanBeOffloadedForkedAndDeleted) {
  const std::string holder = Prepare({"s", "t", "u", "v"});
  WorkerAt(holder).Kill();
  EXPECT_THAT(Fork("s", "child"), StatusIs(kUnavailable, "nothing was forked"));
  EXPECT_THAT(Fork("s", "child"), IsOk());
  const std::string peer = Get("t")->worker() == holder ? "t" : "u";
  EXPECT_THAT(Delete(peer), IsOk());
  EXPECT_FALSE(store_.Has(peer));
  EXPECT_THAT(Offload("s"), IsOk());
}

TEST_F(FailoverTest, RestartedCoordinatorKnowsItsSessions) {
  const std::string holder = Prepare({"s", "whole"});
  ASSERT_THAT(Create("other", "acme"), IsOk());
  ASSERT_THAT(Create("gone"), IsOk());
  ASSERT_THAT(Delete("gone"), IsOk());
  ASSERT_THAT(Create("stored"), IsOk());
  ASSERT_THAT(Append("stored", {"text"}), IsOk());
  ASSERT_THAT(Offload("stored"), IsOk());
  const v1::Session before = *Get("s");
  RestartCoordinator();
  // Its worker comes back within the lease; a call waits for that.
  const Answer answer = Generate("s", "q", 5);
  ASSERT_THAT(answer.status, IsOk());
  EXPECT_EQ(answer.worker, holder);
  EXPECT_EQ(answer.ids, Generate("whole", "q", 5).ids);
  EXPECT_EQ(Get("s")->epoch(), before.epoch());
  EXPECT_EQ(Get("s")->create_time().nanos(), before.create_time().nanos());
  EXPECT_THAT(Get("other"), StatusIs(kNotFound, ""));
  EXPECT_THAT(Get("other", "acme"), IsOk());
  EXPECT_THAT(Get("gone"), StatusIs(kNotFound, ""));
  EXPECT_EQ(Get("stored")->state(), v1::SESSION_STATE_OFFLOADED);
  EXPECT_EQ(Get("stored")->n_tokens(), 4);
}

TEST_F(FailoverTest, TextOfASessionBeforeTheJournalWasLostDoesNotComeBackUnderItsId) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  ASSERT_THAT(Append("s", {"a long document"}), IsOk());
  ASSERT_THAT(Offload("s"), IsOk());
  ASSERT_THAT(Restore("s"), IsOk());  // a forked or restored session is still itself
  ASSERT_THAT(Fork("s", "f"), IsOk());
  ASSERT_THAT(Offload("f"), IsOk());
  ASSERT_THAT(Restore("f"), IsOk());
  StopCoordinator();
  workers_.clear();
  for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
    std::filesystem::remove_all(entry.path());
  }
  StartCoordinator();
  AddWorker("w1");
  ASSERT_THAT(Create("s", "acme"), IsOk());
  AddWorker("w2");
  WorkerAt("w1").Kill();
  const auto context = Context("acme");
  ASSERT_THAT(Generate("s", "q", 2, context.get()).status, IsOk());
  EXPECT_EQ(Get("s", "acme")->worker(), "w2");
  EXPECT_EQ(Get("s", "acme")->n_tokens(), 3);
  WorkerAt("w2").Kill();
  AddWorker("w3");  // and its first commit is what the store has now
  const auto again = Context("acme");
  ASSERT_THAT(Generate("s", "q", 2, again.get()).status, IsOk());
  EXPECT_EQ(Get("s", "acme")->n_tokens(), 6);
}

TEST_F(FailoverTest, SessionThatAWorkerBringsFromBeforeTheJournalWasLostIsNotTakenForANewOne) {
  tests::FakeWorker& silent = AddWorker("w1", {.beats = false});
  ASSERT_TRUE(silent.Register().ok());
  for (const char* id : {"a", "b", "s"}) ASSERT_THAT(Create(id), IsOk());
  ASSERT_THAT(Append("s", {"a document of the default tenant"}), IsOk());
  StopCoordinator();
  for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
    std::filesystem::remove_all(entry.path());
  }
  StartCoordinator();
  AddWorker("w2");
  const auto created = Create("s", "acme");
  ASSERT_THAT(created, IsOk());
  ASSERT_GT(silent.EpochOf("s"), created->epoch());
  ASSERT_TRUE(silent.Register().ok());
  EXPECT_FALSE(silent.Holds("s")) << "revoked";
  EXPECT_EQ(Get("s", "acme")->worker(), "w2");
  EXPECT_EQ(Get("s", "acme")->n_tokens(), 0);
}

TEST_F(FailoverTest, WorkerThatDiedWithTheCoordinatorIsRecoveredFrom) {
  const std::string holder = Prepare({"s"});
  StopCoordinator();
  WorkerAt(holder).Kill();
  StartCoordinator();
  ASSERT_THAT(Generate("s", "q", 2).status, IsOk());
  EXPECT_EQ(Get("s")->worker(), Other(holder));
}

TEST_F(FailoverTest, DrainMovesEverySessionAndEndsDrained) {
  const std::string holder = Prepare({"a", "b", "c", "d"});
  std::vector<std::string> there;
  for (const char* id : {"a", "b", "c", "d"}) {
    if (Get(id)->worker() == holder) there.push_back(id);
  }
  v1::DrainWorkerRequest request;
  request.set_worker_id(holder);
  const auto context = Context();
  const auto reader = admin_->DrainWorker(context.get(), request);
  std::vector<v1::DrainWorkerEvent> events;
  v1::DrainWorkerEvent event;
  while (reader->Read(&event)) events.push_back(event);
  ASSERT_TRUE(reader->Finish().ok());
  ASSERT_EQ(events.size(), there.size() + 2);
  EXPECT_EQ(events.front().n_remaining(), static_cast<int64_t>(there.size()));
  EXPECT_EQ(events[1].session_id(), there[0]);
  EXPECT_EQ(events[1].target(), Other(holder));
  EXPECT_EQ(events.back().session_id(), "");
  EXPECT_EQ(StateOfWorker(holder), v1::WORKER_STATE_DRAINED);
  EXPECT_EQ(Create("new")->worker(), Other(holder));
  request.set_undo(true);
  const auto undo_context = Context();
  const auto undone = admin_->DrainWorker(undo_context.get(), request);
  EXPECT_FALSE(undone->Read(&event));
  EXPECT_TRUE(undone->Finish().ok());
  EXPECT_EQ(StateOfWorker(holder), v1::WORKER_STATE_READY);
}

// docs/metrics.md names the process of every metric: what it gives to the coordinator is exported.
TEST_F(FailoverTest, EveryGaugeListedForTheCoordinatorIsExported) {
  const std::string holder = Prepare({"a"});
  v1::DrainWorkerRequest request;
  request.set_worker_id(holder);
  const auto context = Context();
  const auto reader = admin_->DrainWorker(context.get(), request);
  v1::DrainWorkerEvent event;
  while (reader->Read(&event)) {
  }
  ASSERT_TRUE(reader->Finish().ok());
  const auto is_exported = [this](std::string_view name) {
    return std::ranges::any_of(metrics_->registry()->Collect(), [name](const auto& family) {
      return family.name == name && !family.metric.empty();
    });
  };
  for (const base::MetricInfo& info : base::MetricsTable()) {
    if (info.kind != base::MetricKind::kGauge) continue;
    if (info.processes.find("coordinator") == std::string_view::npos) continue;
    Eventually([&] { return is_exported(info.name); }, std::string(info.name).c_str());
  }
}

TEST_F(FailoverTest, DrainOfTheOnlyWorkerGoesToTheStoreAndOutlivesARestart) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  ASSERT_THAT(Append("s", {"text"}), IsOk());
  v1::DrainWorkerRequest request;
  request.set_worker_id("w1");
  const auto context = Context();
  const auto reader = admin_->DrainWorker(context.get(), request);
  v1::DrainWorkerEvent event;
  std::string target;
  while (reader->Read(&event)) target += event.target();
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(target, "store");
  EXPECT_EQ(Get("s")->state(), v1::SESSION_STATE_OFFLOADED);
  RestartCoordinator();
  Eventually([&] { return StateOfWorker("w1") == v1::WORKER_STATE_DRAINED; }, "still drained");
}

TEST_F(FailoverTest, DrainOfAnUnknownWorkerIsNotFound) {
  v1::DrainWorkerRequest request;
  request.set_worker_id("w9");
  const auto context = Context();
  const auto reader = admin_->DrainWorker(context.get(), request);
  v1::DrainWorkerEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(FailoverTest, DrainWaitsForARunningCall) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(5));
  ASSERT_THAT(Create("s"), IsOk());
  Answer answer;
  std::thread running([&] { answer = Generate("s", "q", 60); });
  Eventually([&] { return WorkerAt("w1").n_tokens_sent() > 0; }, "call runs");
  v1::DrainWorkerRequest request;
  request.set_worker_id("w1");
  const auto context = Context();
  const auto reader = admin_->DrainWorker(context.get(), request);
  v1::DrainWorkerEvent event;
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  running.join();
  EXPECT_THAT(answer.status, IsOk());
  EXPECT_EQ(answer.ids.size(), 60u);
  EXPECT_EQ(Get("s")->state(), v1::SESSION_STATE_OFFLOADED);
}

TEST_F(FailoverTest, WorkerThatLeavesInOrderLeavesItsSessionsOffloaded) {
  AddWorker("w1", {.beats = false});
  ASSERT_TRUE(WorkerAt("w1").Register().ok());
  ASSERT_THAT(Create("s"), IsOk());
  ASSERT_TRUE(WorkerAt("w1").Deregister().ok());
  EXPECT_EQ(Get("s")->state(), v1::SESSION_STATE_OFFLOADED);
  EXPECT_EQ(StateOfWorker("w1"), v1::WORKER_STATE_UNSPECIFIED);
}

TEST_F(FailoverTest, ShutdownEndsRunningCallsAfterTheirGrace) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(5));
  ASSERT_THAT(Create("s"), IsOk());
  Answer answer;
  std::thread running([&] { answer = Generate("s", "q", 20); });
  Eventually([&] { return WorkerAt("w1").n_tokens_sent() > 0; }, "call runs");
  server_->Shutdown(absl::Seconds(5));
  running.join();
  EXPECT_THAT(answer.status, IsOk());
  EXPECT_EQ(answer.ids.size(), 20u);
}

}  // namespace
}  // namespace lexico::coord

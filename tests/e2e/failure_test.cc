// Processes that die and resources that run out, each with a cluster of its own.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "proto/rpc/status_map.h"
#include "tests/e2e/cluster.h"
#include "tests/support/status_matchers.h"

namespace lexico::tests {
namespace {

using absl::StatusCode;

constexpr int kDocumentBytes = 4000;

// A session with a document, and what it answers to the document's first question.
struct Prepared {
  std::string id;
  TestDocument document;
};

Prepared Prepare(Cluster& cluster, int seed, const std::string& profile = "") {
  Prepared prepared{.id = "", .document = MakeTestDocument(kDocumentBytes, 2, seed)};
  v1::CreateSessionRequest request;
  request.set_profile(profile);
  const auto session = cluster.Create(request);
  EXPECT_THAT(session, IsOk());
  if (!session.ok()) return prepared;
  prepared.id = session->session_id();
  EXPECT_THAT(cluster.Append(prepared.id, prepared.document.text), IsOk());
  return prepared;
}

void ExpectAnswers(Cluster& cluster, const Prepared& prepared, int question) {
  const auto answer = cluster.Ask(prepared.id, prepared.document.questions[question]);
  ASSERT_THAT(answer, IsOk());
  EXPECT_NE(answer->text.find(prepared.document.answers[question]), std::string::npos)
      << answer->text;
}

std::string WorkerOf(Cluster& cluster, const std::string& id) {
  const auto session = cluster.Get(id);
  EXPECT_THAT(session, IsOk());
  return session.ok() ? session->worker() : "";
}

TEST(FailureTest, AnswersGoOnWhenTheirWorkerIsKilled) {
  Cluster cluster;
  const Prepared prepared = Prepare(cluster, 31);
  const std::string worker = WorkerOf(cluster, prepared.id);
  ASSERT_NE(worker, "");
  Answer answer;
  bool is_killed = false;
  const absl::Status status =
      cluster.Ask(LongRequest(prepared.id, 120), &answer, [&](const v1::GenerateEvent& event) {
        if (event.has_token() && event.token().index() == 20) {
          cluster.process(worker).Signal(SIGKILL);
          is_killed = true;
        }
        return true;
      });
  ASSERT_THAT(status, IsOk());
  EXPECT_TRUE(is_killed);
  EXPECT_EQ(answer.ids.size(), 120u);
  int n_started = 0;
  int64_t next = 0;
  for (const v1::GenerateEvent& event : answer.events) {
    n_started += event.has_started() ? 1 : 0;
    if (event.has_token()) {
      EXPECT_EQ(event.token().index(), next++);
    }
  }
  EXPECT_EQ(n_started, 1);
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_LENGTH);
  const std::string other = WorkerOf(cluster, prepared.id);
  EXPECT_NE(other, worker);
  // The document is all there, and the turn is in the session once.
  ExpectAnswers(cluster, prepared, 0);
  cluster.Kill(other);
  cluster.Start(worker);
  ExpectAnswers(cluster, prepared, 1);
}

TEST(FailureTest, StoreMayDieWhileAnswersGoOn) {
  Cluster cluster({.n_workers = 2});
  const Prepared prepared = Prepare(cluster, 32);
  const std::string worker = WorkerOf(cluster, prepared.id);
  // What is behind the answers arrives before the store dies: this test is about what comes later.
  ASSERT_TRUE(
      Cluster::Eventually([&] { return cluster.Metric(worker, "lexico_pages_behind") == 0; }));
  cluster.Kill("store");
  ExpectAnswers(cluster, prepared, 0);
  Answer answer;
  ASSERT_THAT(cluster.Ask(LongRequest(prepared.id, 100), &answer), IsOk());
  EXPECT_EQ(answer.ids.size(), 100u);
  auto session = cluster.Get(prepared.id);
  ASSERT_THAT(session, IsOk());
  EXPECT_LT(session->n_durable_tokens(), session->n_tokens());
  const absl::Status offloaded = cluster.Offload(prepared.id).status();
  EXPECT_THAT(offloaded, StatusIs(StatusCode::kUnavailable, "store"));
  EXPECT_EQ(rpc::ReasonOf(offloaded), "store_unavailable");
  cluster.Start("store");
  EXPECT_TRUE(Cluster::Eventually([&] {
    session = cluster.Get(prepared.id);
    return session.ok() && session->n_durable_tokens() == session->n_tokens();
  })) << session->n_durable_tokens();
  // What was stored before and after the store's death is enough to go on without the worker.
  cluster.Kill(worker);
  ExpectAnswers(cluster, prepared, 1);
}

TEST(FailureTest, StoreThatHangsFailsMovesSoonAndHoldsUpNoAnswer) {
  Cluster cluster({.n_workers = 2, .worker_flags = {"--store_stall_timeout=1"}});
  const Prepared prepared = Prepare(cluster, 37);
  const std::string worker = WorkerOf(cluster, prepared.id);
  ASSERT_TRUE(
      Cluster::Eventually([&] { return cluster.Metric(worker, "lexico_pages_behind") == 0; }));
  const auto expect_refused = [](const absl::Status& status, absl::Time begin) {
    EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable, "store"));
    EXPECT_EQ(rpc::ReasonOf(status), "store_unavailable");
    EXPECT_GT(rpc::RetryAfterOf(status), absl::ZeroDuration());
    EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  };
  cluster.process("store").Signal(SIGSTOP);
  absl::Time begin = absl::Now();
  expect_refused(cluster.Offload(prepared.id).status(), begin);
  begin = absl::Now();
  expect_refused(cluster.Migrate(prepared.id).status(), begin);
  // It is where it was, and answers.
  EXPECT_EQ(WorkerOf(cluster, prepared.id), worker);
  ExpectAnswers(cluster, prepared, 0);
  cluster.process("store").Signal(SIGCONT);
  ASSERT_TRUE(Cluster::Eventually([&] { return cluster.Offload(prepared.id).ok(); }));

  cluster.process("store").Signal(SIGSTOP);
  begin = absl::Now();
  expect_refused(cluster.Restore(prepared.id).status(), begin);
  EXPECT_EQ(cluster.Get(prepared.id)->state(), v1::SESSION_STATE_OFFLOADED);
  cluster.process("store").Signal(SIGCONT);
  ASSERT_TRUE(Cluster::Eventually([&] { return cluster.Restore(prepared.id).ok(); }));
  ExpectAnswers(cluster, prepared, 1);
}

TEST(FailureTest, RestartedCoordinatorKnowsItsSessions) {
  Cluster cluster;
  const Prepared resident = Prepare(cluster, 33);
  const Prepared offloaded = Prepare(cluster, 34);
  ASSERT_THAT(cluster.Offload(offloaded.id), IsOk());
  cluster.Kill("coordinator");
  cluster.Start("coordinator");
  cluster.WaitForWorkers(2);
  const auto session = cluster.Get(resident.id);
  ASSERT_THAT(session, IsOk());
  EXPECT_GT(session->n_tokens(), 500);
  EXPECT_EQ(session->n_durable_tokens(), session->n_tokens());
  ExpectAnswers(cluster, resident, 0);
  ExpectAnswers(cluster, offloaded, 0);
}

TEST(FailureTest, StoppedWorkerHandsItsSessionsOver) {
  Cluster cluster;
  const Prepared prepared = Prepare(cluster, 35);
  const std::string worker = WorkerOf(cluster, prepared.id);
  cluster.process(worker).Signal(SIGTERM);
  EXPECT_EQ(cluster.process(worker).WaitForExit(absl::Seconds(20)), 0);
  const auto session = cluster.Get(prepared.id);
  ASSERT_THAT(session, IsOk());
  EXPECT_EQ(session->state(), v1::SESSION_STATE_OFFLOADED);
  ExpectAnswers(cluster, prepared, 0);
}

TEST(FailureTest, DrainedWorkerIsEmptyAndTakesNothingUntilUndone) {
  Cluster cluster;
  const Prepared prepared = Prepare(cluster, 36);
  const std::string worker = WorkerOf(cluster, prepared.id);
  const auto drain = [&](bool undo) {
    grpc::ClientContext context;
    v1::DrainWorkerRequest request;
    request.set_worker_id(worker);
    request.set_undo(undo);
    const auto reader = cluster.admin().DrainWorker(&context, request);
    v1::DrainWorkerEvent event;
    while (reader->Read(&event)) {
    }
    return rpc::FromGrpc(reader->Finish());
  };
  ASSERT_THAT(drain(false), IsOk());
  for (int i = 0; i < 3; ++i) {
    const auto session = cluster.Create();
    ASSERT_THAT(session, IsOk());
    EXPECT_NE(session->worker(), worker);
  }
  ExpectAnswers(cluster, prepared, 0);
  EXPECT_NE(WorkerOf(cluster, prepared.id), worker);
  ASSERT_THAT(drain(true), IsOk());
  cluster.WaitForWorkers(2);
}

TEST(FailureTest, FullQueueSaysWhenToComeBack) {
  Cluster cluster({.n_workers = 1, .coordinator_flags = {"--worker_calls_max=2"}});
  std::atomic<int> n_refused = 0;
  std::atomic<int> n_other = 0;
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  std::vector<std::string> ids;
  for (int i = 0; i < 4; ++i) {
    const auto session = cluster.Create();
    ASSERT_THAT(session, IsOk());
    ids.push_back(session->session_id());
  }
  for (const std::string& id : ids) {
    threads.emplace_back([&, id] {
      Answer answer;
      const absl::Status status = cluster.Ask(LongRequest(id, 5000), &answer,
                                              [&](const v1::GenerateEvent&) { return !stop; });
      if (absl::IsResourceExhausted(status)) {
        EXPECT_GT(rpc::RetryAfterOf(status), absl::ZeroDuration());
        ++n_refused;
      } else {
        n_other += absl::IsCancelled(status) ? 0 : 1;
      }
    });
  }
  EXPECT_TRUE(Cluster::Eventually([&] { return n_refused == 2; }));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_refused, 2);
  EXPECT_EQ(n_other, 0);
  EXPECT_TRUE(Cluster::Eventually([&] { return cluster.Ask(ids[0], "Hello?").ok(); }));
}

TEST(FailureTest, FullDiskRefusesMovesAndLosesNothing) {
  // The smallest disk there is holds about 6,000 tokens of exact keys and values.
  Cluster cluster({.n_workers = 1, .store_flags = {"--disk_bytes=64MiB", "--host_bytes=1MiB"}});
  const Prepared first = Prepare(cluster, 41, "dense");
  ASSERT_THAT(cluster.Offload(first.id), IsOk());
  absl::Status status;
  Prepared last;
  for (int i = 0; i < 8 && status.ok(); ++i) {
    last = Prepare(cluster, 42 + i, "dense");
    status = cluster.Offload(last.id).status();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  ExpectAnswers(cluster, last, 0);
  ExpectAnswers(cluster, first, 0);
}

}  // namespace
}  // namespace lexico::tests

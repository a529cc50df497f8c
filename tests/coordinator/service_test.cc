// Sessions through the coordinator while everything works: create, append, generate, fork, move,
// list, delete; and requests that are wrong.
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "absl/time/clock.h"
#include "tests/coordinator/cluster_fixture.h"

namespace lexico::coord {
namespace {

using tests::IsOk;
using tests::StatusIs;
using enum absl::StatusCode;

class ServiceTest : public ClusterFixture {};

TEST_F(ServiceTest, DocumentIsAppendedAndAskedAbout) {
  tests::FakeWorker& worker = AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  const auto appended = Append("s", {"chapter one ", "chapter two"});
  ASSERT_THAT(appended, IsOk());
  EXPECT_EQ(appended->session().n_tokens(), 23);
  EXPECT_EQ(appended->session().worker(), "w1");
  EXPECT_EQ(appended->session().state(), v1::SESSION_STATE_READY);
  EXPECT_EQ(worker.append_bytes(), 23u);

  const Answer answer = Generate("s", "what?", 5);
  ASSERT_THAT(answer.status, IsOk());
  EXPECT_EQ(answer.ids.size(), 5u);
  EXPECT_EQ(answer.n_started, 1);
  EXPECT_EQ(answer.n_finished, 1);
  EXPECT_TRUE(answer.in_order);
  EXPECT_EQ(answer.worker, "w1");

  const auto session = Get("s");
  ASSERT_THAT(session, IsOk());
  EXPECT_EQ(session->n_tokens(), 33);
  EXPECT_EQ(session->memory().code_bytes(), 330u);
  EXPECT_DOUBLE_EQ(session->memory().fraction_of_fp16(), 0.1);
  EXPECT_EQ(session->tier(), v1::TIER_DEVICE);
  EXPECT_GT(MetricSum("lexico_time_to_first_token_seconds"), 0);
  EXPECT_EQ(MetricSum("lexico_inter_token_latency_seconds"), 4);
}

TEST_F(ServiceTest, DocumentOfManyChunksPassesThrough) {
  tests::FakeWorker& worker = AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  const std::vector<std::string> chunks(20, std::string(40000, 'x'));
  ASSERT_THAT(Append("s", chunks), IsOk());
  EXPECT_EQ(worker.append_bytes(), 20u * 40000);
}

TEST_F(ServiceTest, ChosenIdDefaultsAndIdempotentCreation) {
  AddWorker("w1");
  const auto chosen = Create("");
  ASSERT_THAT(chosen, IsOk());
  EXPECT_FALSE(chosen->session_id().empty());
  EXPECT_EQ(chosen->model(), "fake");
  EXPECT_EQ(chosen->profile(), "paper-s16");
  ASSERT_THAT(Create("s"), IsOk());
  const auto again = Create("s");
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->epoch(), Get("s")->epoch());
  v1::CreateSessionRequest other;
  other.set_session_id("s");
  other.set_profile("dense");
  EXPECT_THAT(Create(other), StatusIs(kAlreadyExists, "session s"));
}

TEST_F(ServiceTest, ProfilesThatAreNotListedAreServedWhereTheyFit) {
  AddWorker("w1");
  for (const char* profile : {"paper-s1", "paper-s3", "paper-s32", "dense"}) {
    v1::CreateSessionRequest request;
    request.set_profile(profile);
    const auto session = Create(request);
    ASSERT_THAT(session, IsOk());
    EXPECT_EQ(session->profile(), profile);
  }
}

class DemotionServiceTest : public ServiceTest {
 protected:
  absl::StatusOr<v1::Session> CreateWith(const std::string& id, const std::string& profile,
                                         const std::string& min_profile) {
    v1::CreateSessionRequest request;
    request.set_session_id(id);
    request.set_profile(profile);
    request.set_min_profile(min_profile);
    return Create(request);
  }
  absl::StatusOr<v1::Session> Demote(const std::string& id, const std::string& profile) {
    v1::DemoteSessionRequest request;
    request.set_session_id(id);
    request.set_profile(profile);
    v1::Session response;
    const absl::Status status =
        rpc::FromGrpc(inference_->DemoteSession(Context().get(), request, &response));
    if (!status.ok()) return status;
    return response;
  }
};

TEST_F(DemotionServiceTest, ADemotedSessionIsShownAsItWasAndIs) {
  AddWorker("w1");
  ASSERT_THAT(CreateWith("s", "paper-s16", "paper-s4"), IsOk());
  ASSERT_THAT(Append("s", {"text"}), IsOk());
  EXPECT_EQ(Get("s")->profile(), "paper-s16");
  const auto demoted = Demote("s", "paper-s8");
  ASSERT_THAT(demoted, IsOk());
  EXPECT_EQ(demoted->profile(), "paper-s8");
  EXPECT_EQ(demoted->birth_profile(), "paper-s16");
  EXPECT_EQ(demoted->min_profile(), "paper-s4");
  EXPECT_EQ(Get("s")->profile(), "paper-s8");
  EXPECT_EQ(List().at("s").profile(), "paper-s8");
  RestartCoordinator();
  EXPECT_EQ(List().at("s").profile(), "paper-s8");
  EXPECT_EQ(List().at("s").birth_profile(), "paper-s16");
  EXPECT_EQ(List().at("s").min_profile(), "paper-s4");
}

TEST_F(DemotionServiceTest, AnOffloadedSessionIsTakenUpFirst) {
  AddWorker("w1");
  ASSERT_THAT(CreateWith("s", "paper-s16", ""), IsOk());
  ASSERT_THAT(Append("s", {"text"}), IsOk());
  ASSERT_THAT(Offload("s"), IsOk());
  const auto demoted = Demote("s", "paper-s8");
  ASSERT_THAT(demoted, IsOk());
  EXPECT_EQ(demoted->worker(), "w1");
  EXPECT_EQ(demoted->profile(), "paper-s8");
  const auto fork = Fork("s", "f");
  ASSERT_THAT(fork, IsOk());
  EXPECT_EQ(fork->profile(), "paper-s8");
  EXPECT_EQ(fork->birth_profile(), "paper-s16");
}

TEST_F(DemotionServiceTest, WhatIsNoDemotionIsRefused) {
  AddWorker("w1");
  ASSERT_THAT(CreateWith("s", "paper-s8", ""), IsOk());
  EXPECT_THAT(Demote("none", "paper-s4"), StatusIs(kNotFound, "none"));
  EXPECT_THAT(Demote("s", ""), StatusIs(kInvalidArgument, "profile is empty"));
  EXPECT_THAT(Demote("s", "paper"), StatusIs(kNotFound, "no profile paper"));
  EXPECT_EQ(rpc::ReasonOf(Demote("s", "paper").status()), "profile_unknown");
  EXPECT_THAT(Demote("s", "paper-s16"), StatusIs(kFailedPrecondition, "not fewer atoms"));
  EXPECT_EQ(rpc::ReasonOf(Demote("s", "paper-s16").status()), "profile_not_smaller");
  EXPECT_THAT(Demote("s", "kv4"), StatusIs(kFailedPrecondition, "other coefficient bits"));
  EXPECT_THAT(Demote("s", "dense"), StatusIs(kFailedPrecondition, "one is dense"));
  EXPECT_THAT(CreateWith("t", "paper-s8", "paper-s16"),
              StatusIs(kFailedPrecondition, "not fewer atoms"));
  EXPECT_THAT(CreateWith("t", "paper-s8", "paper"), StatusIs(kNotFound, "no profile paper"));
  EXPECT_THAT(CreateWith("t", "paper-s8", std::string(300, 'p')),
              StatusIs(kInvalidArgument, "min_profile has 300 bytes"));
}

TEST_F(DemotionServiceTest, TheUsualLeastProfileIsOfThoseItFits) {
  options_.min_profile = "paper-s8";
  RestartCoordinator();
  AddWorker("w1");
  EXPECT_EQ(CreateWith("a", "paper-s16", "")->min_profile(), "paper-s8");
  EXPECT_EQ(CreateWith("b", "paper-s8", "")->min_profile(), "");
  EXPECT_EQ(CreateWith("c", "dense", "")->min_profile(), "");
  EXPECT_EQ(CreateWith("d", "paper-s16", "paper-s16")->min_profile(), "");
  EXPECT_EQ(CreateWith("e", "paper-s16", "paper-s2")->min_profile(), "paper-s2");
}

TEST_F(ServiceTest, SessionsSpreadOverWorkers) {
  AddWorker("w1");
  AddWorker("w2");
  std::set<std::string> workers;
  for (const char* id : {"a", "b"}) workers.insert(Create(id)->worker());
  EXPECT_EQ(workers.size(), 2u);
}

TEST_F(ServiceTest, WrongRequestsSayWhatIsWrong) {
  AddWorker("w1");
  EXPECT_THAT(Create("a b"), StatusIs(kInvalidArgument, "0x20 at 1"));
  EXPECT_THAT(Create(std::string(129, 'a')), StatusIs(kInvalidArgument, "129 bytes"));
  v1::CreateSessionRequest request;
  request.set_model("nope");
  EXPECT_THAT(Create(request), StatusIs(kNotFound, "served are: fake"));
  request.set_model("fake");
  request.set_profile("nope");
  EXPECT_THAT(Create(request), StatusIs(kNotFound, "allowed are dense and paper-s1 to paper-s32"));
  request.set_profile("paper-s33");
  EXPECT_THAT(Create(request), StatusIs(kNotFound, "allowed are dense and paper-s1 to paper-s32"));
  request.set_profile("");
  request.set_format(v1::TEXT_FORMAT_RAW);
  request.set_system_prompt("be brief");
  EXPECT_THAT(Create(request), StatusIs(kInvalidArgument, "CHAT"));
  ASSERT_THAT(Create("s"), IsOk());
  EXPECT_THAT(Generate("s", "", -1).status, StatusIs(kInvalidArgument, "max_new_tokens is -1"));
  EXPECT_THAT(Generate("s", std::string((1 << 20) + 1, 'x'), 1).status,
              StatusIs(kInvalidArgument, "AppendText"));
  EXPECT_THAT(Append("", {"x"}), StatusIs(kInvalidArgument, "session_id is empty"));
  EXPECT_THAT(Append("s", {std::string((1 << 20) + 1, 'x')}),
              StatusIs(kInvalidArgument, "1048577 bytes"));
  EXPECT_EQ(Get("s")->n_tokens(), 0);
}

TEST_F(ServiceTest, UnknownDeletedAndForeignSessionsAreNotFound) {
  AddWorker("w1");
  EXPECT_THAT(Get("none"), StatusIs(kNotFound, "no session none"));
  EXPECT_THAT(Generate("none", "", 1).status, StatusIs(kNotFound, "none"));
  EXPECT_THAT(Append("none", {"x"}), StatusIs(kNotFound, "none"));
  EXPECT_THAT(Delete("none"), StatusIs(kNotFound, "none"));
  ASSERT_THAT(Create("s"), IsOk());
  EXPECT_THAT(Get("s", "acme"), StatusIs(kNotFound, "s"));
  EXPECT_THAT(Delete("s", "acme"), StatusIs(kNotFound, "s"));
  EXPECT_THAT(Create("s", "acme"), StatusIs(kAlreadyExists, "taken"));
  EXPECT_THAT(Get("s", "a/b"), StatusIs(kInvalidArgument, "lexico-tenant"));
  ASSERT_THAT(Delete("s"), IsOk());
  EXPECT_THAT(Delete("s"), StatusIs(kNotFound, "s"));
  EXPECT_FALSE(WorkerAt("w1").Holds("s"));
}

TEST_F(ServiceTest, NoWorkerIsUnavailableWithRetry) {
  const auto created = Create("s");
  EXPECT_THAT(created, StatusIs(kUnavailable, "no worker"));
  EXPECT_EQ(rpc::ReasonOf(created.status()), "no_worker");
  EXPECT_GT(rpc::RetryAfterOf(created.status()), absl::ZeroDuration());
}

TEST_F(ServiceTest, SecondCallOnASessionIsBusy) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(5));
  ASSERT_THAT(Create("s"), IsOk());
  const auto context = Context();
  Answer first;
  std::thread running([&] { first = Generate("s", "p", 10000, context.get()); });
  Eventually([&] { return WorkerAt("w1").n_tokens_sent() > 0; }, "first call runs");
  EXPECT_EQ(Get("s")->state(), v1::SESSION_STATE_BUSY);
  const Answer second = Generate("s", "p", 1);
  EXPECT_THAT(second.status, StatusIs(kFailedPrecondition, "session s"));
  EXPECT_EQ(rpc::ReasonOf(second.status), "session_busy");
  EXPECT_THAT(Append("s", {"x"}), StatusIs(kFailedPrecondition, ""));
  EXPECT_THAT(Offload("s"), StatusIs(kFailedPrecondition, ""));
  EXPECT_THAT(Migrate("s"), StatusIs(kFailedPrecondition, ""));
  EXPECT_THAT(Delete("s"), StatusIs(kFailedPrecondition, ""));
  context->TryCancel();
  running.join();
  EXPECT_THAT(first.status, StatusIs(kCancelled, ""));
}

TEST_F(ServiceTest, CancellationReachesTheWorkerSoonAndFreesTheSession) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(5));
  ASSERT_THAT(Create("s"), IsOk());
  const auto context = Context();
  std::thread running([&] { Generate("s", "p", 10000, context.get()); });
  Eventually([&] { return WorkerAt("w1").n_tokens_sent() > 2; }, "tokens flow");
  const absl::Time begin = absl::Now();
  context->TryCancel();
  Eventually([&] { return WorkerAt("w1").n_runs_cancelled() == 1; }, "worker is cancelled");
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1));
  running.join();
  Eventually([&] { return Get("s")->state() == v1::SESSION_STATE_READY; }, "session is free");
  EXPECT_THAT(Generate("s", "p", 1).status, IsOk());
}

// The worker needs the rest of its step to stop; whoever comes next must not feel that.
TEST_F(ServiceTest, CallAfterACancelledOneWaitsForTheWorkerToStop) {
  tests::FakeWorker& worker = AddWorker("w1");
  worker.set_cancel_lag(absl::Milliseconds(150));
  ASSERT_THAT(Create("s"), IsOk());
  const auto cancel_one = [&] {
    worker.set_token_delay(absl::Milliseconds(5));
    const int n_before = worker.n_tokens_sent();
    const auto context = Context();
    std::thread running([&] { Generate("s", "p", 10000, context.get()); });
    Eventually([&] { return worker.n_tokens_sent() > n_before; }, "tokens flow");
    context->TryCancel();
    running.join();
    worker.set_token_delay(absl::ZeroDuration());
    // Of our own bookkeeping, not of the worker's.
    Eventually([&] { return server_->cluster().Get("", "s")->activity == Activity::kNone; },
               "the coordinator is done with it");
  };
  cancel_one();
  EXPECT_THAT(Generate("s", "p", 1).status, IsOk());
  cancel_one();
  EXPECT_THAT(Append("s", {"text"}), IsOk());
  cancel_one();
  EXPECT_THAT(Fork("s", "t"), IsOk());
  cancel_one();
  EXPECT_THAT(Offload("s"), IsOk());
}

TEST_F(ServiceTest, DeadlineReachesTheWorker) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(20));
  ASSERT_THAT(Create("s"), IsOk());
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(200)));
  EXPECT_THAT(Generate("s", "p", 10000, &context).status, StatusIs(kDeadlineExceeded, ""));
  Eventually([&] { return WorkerAt("w1").n_runs_cancelled() == 1; }, "worker is cancelled");
  EXPECT_EQ(WorkerAt("w1").n_runs(), 1);
}

TEST_F(ServiceTest, CancelledDocumentIsNotInTheSession) {
  AddWorker("w1").set_append_delay(absl::Seconds(20));
  ASSERT_THAT(Create("s"), IsOk());
  const auto context = Context();
  v1::AppendTextResponse response;
  const auto writer = inference_->AppendText(context.get(), &response);
  v1::AppendTextRequest message;
  message.set_session_id("s");
  message.set_text("half a docu");
  ASSERT_TRUE(writer->Write(message));
  Eventually([&] { return WorkerAt("w1").append_bytes() > 0; }, "the worker has the chunk");
  context->TryCancel();
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  Eventually([&] { return WorkerAt("w1").n_appends_cancelled() == 1; }, "worker is cancelled");
  Eventually([&] { return Get("s")->state() == v1::SESSION_STATE_READY; }, "session is free");
  EXPECT_EQ(Get("s")->n_tokens(), 0);
}

TEST_F(ServiceTest, OffloadAndRestoreContinueTheSameAnswer) {
  AddWorker("w1");
  for (const char* id : {"moved", "still"}) {
    ASSERT_THAT(Create(id), IsOk());
    ASSERT_THAT(Append(id, {"text"}), IsOk());
  }
  const auto offloaded = Offload("moved");
  ASSERT_THAT(offloaded, IsOk());
  EXPECT_EQ(offloaded->state(), v1::SESSION_STATE_OFFLOADED);
  EXPECT_EQ(offloaded->tier(), v1::TIER_HOST);
  EXPECT_EQ(offloaded->worker(), "");
  EXPECT_EQ(offloaded->n_tokens(), 4);
  EXPECT_FALSE(WorkerAt("w1").Holds("moved"));
  EXPECT_THAT(Offload("moved"), IsOk());  // idempotent
  const auto restored = Restore("moved");
  ASSERT_THAT(restored, IsOk());
  EXPECT_EQ(restored->worker(), "w1");
  EXPECT_GT(restored->epoch(), offloaded->epoch());
  EXPECT_EQ(Restore("moved")->epoch(), restored->epoch());  // idempotent
  EXPECT_EQ(Generate("moved", "q", 6).ids, Generate("still", "q", 6).ids);
}

TEST_F(ServiceTest, GenerateBringsAnOffloadedSessionBack) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  ASSERT_THAT(Append("s", {"text"}), IsOk());
  ASSERT_THAT(Offload("s"), IsOk());
  EXPECT_THAT(Generate("s", "q", 2).status, IsOk());
  EXPECT_TRUE(WorkerAt("w1").Holds("s"));
}

TEST_F(ServiceTest, MigrationContinuesTheSameAnswer) {
  AddWorker("w1");
  AddWorker("w2");
  for (const char* id : {"moved", "still"}) {
    ASSERT_THAT(Create(id), IsOk());
    ASSERT_THAT(Append(id, {"text"}), IsOk());
  }
  const std::string from = Get("moved")->worker();
  const auto migrated = Migrate("moved", Other(from));
  ASSERT_THAT(migrated, IsOk());
  EXPECT_EQ(migrated->worker(), Other(from));
  EXPECT_FALSE(WorkerAt(from).Holds("moved"));
  EXPECT_EQ(Migrate("moved", Other(from))->epoch(), migrated->epoch());  // already there
  EXPECT_EQ(Generate("moved", "q", 6).ids, Generate("still", "q", 6).ids);
  EXPECT_EQ(Migrate("moved")->worker(), from);  // the router's choice: the other one
  EXPECT_EQ(MetricSum("lexico_migrations_total"), 2);
}

TEST_F(ServiceTest, MigrationToAnUnknownWorkerNamesThoseThereAre) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  EXPECT_THAT(Migrate("s", "w9"), StatusIs(kNotFound, "live workers are: w1"));
  EXPECT_TRUE(WorkerAt("w1").Holds("s"));
}

TEST_F(ServiceTest, MigrationToAFullWorkerMovesNothing) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  AddWorker("w2", {.n_pages_free = 0});
  const auto refused = Migrate("s", "w2");
  EXPECT_THAT(refused, StatusIs(kResourceExhausted, "no free page (0 of 64)"));
  EXPECT_EQ(rpc::ReasonOf(refused.status()), "worker_full");
  EXPECT_TRUE(WorkerAt("w1").Holds("s"));
}

TEST_F(ServiceTest, TargetThatFailsGivesTheSessionBack) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  ASSERT_THAT(Append("s", {"text"}), IsOk());
  AddWorker("w2").FailRestore(absl::ResourceExhaustedError("no room"));
  EXPECT_THAT(Migrate("s", "w2"), StatusIs(kResourceExhausted, "is back on worker w1"));
  EXPECT_EQ(Get("s")->worker(), "w1");
  WorkerAt("w1").FailRestore(absl::ResourceExhaustedError("no room"));
  EXPECT_THAT(Migrate("s", "w2"), StatusIs(kResourceExhausted, "is in the store"));
  EXPECT_EQ(Get("s")->state(), v1::SESSION_STATE_OFFLOADED);
  WorkerAt("w2").FailRestore(absl::OkStatus());
  EXPECT_EQ(Restore("s", "w2")->n_tokens(), 4);
}

TEST_F(ServiceTest, FailedOffloadLeavesTheSessionWhereItIs) {
  AddWorker("w1").FailOffload(
      rpc::WithDetail(absl::UnavailableError("the store does not answer"), "store_down"));
  ASSERT_THAT(Create("s"), IsOk());
  const auto offloaded = Offload("s");
  EXPECT_THAT(offloaded, StatusIs(kUnavailable, "the store does not answer"));
  EXPECT_EQ(rpc::ReasonOf(offloaded.status()), "store_down");
  EXPECT_EQ(Get("s")->worker(), "w1");
}

TEST_F(ServiceTest, RestoreToAnotherWorkerThanTheHolderIsRefused) {
  AddWorker("w1");
  AddWorker("w2");
  const std::string holder = Create("s")->worker();
  EXPECT_THAT(Restore("s", Other(holder)), StatusIs(kFailedPrecondition, "MigrateSession"));
  EXPECT_THAT(Restore("s", "w9"), StatusIs(kNotFound, "w9"));
}

TEST_F(ServiceTest, ForkSharesThePastAndNotTheFuture) {
  AddWorker("w1");
  ASSERT_THAT(Create("parent"), IsOk());
  ASSERT_THAT(Append("parent", {"text"}), IsOk());
  const auto child = Fork("parent", "child");
  ASSERT_THAT(child, IsOk());
  EXPECT_EQ(child->parent_session_id(), "parent");
  EXPECT_EQ(child->worker(), "w1");
  EXPECT_EQ(child->n_tokens(), 4);
  EXPECT_EQ(Generate("child", "q", 4).ids, Generate("parent", "q", 4).ids);
  ASSERT_THAT(Append("child", {"more"}), IsOk());
  EXPECT_EQ(Get("parent")->n_tokens(), 9);
  EXPECT_EQ(Get("child")->n_tokens(), 13);
  EXPECT_THAT(Fork("parent", "child"), StatusIs(kAlreadyExists, "child"));
  EXPECT_THAT(Fork("parent", "parent"), StatusIs(kAlreadyExists, "parent"));
  ASSERT_THAT(Delete("parent"), IsOk());
  EXPECT_THAT(Generate("child", "q", 1).status, IsOk());
}

TEST_F(ServiceTest, DeletingAnOffloadedSessionEmptiesTheStore) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  ASSERT_THAT(Append("s", {"text"}), IsOk());
  ASSERT_THAT(Offload("s"), IsOk());
  EXPECT_TRUE(store_.Has("s"));
  ASSERT_THAT(Delete("s"), IsOk());
  EXPECT_FALSE(store_.Has("s"));
  const uint64_t epoch = Create("s")->epoch();  // the id is free, at a larger epoch
  EXPECT_GT(epoch, 1u);
}

TEST_F(ServiceTest, ListIsOrderedPagedAndOfOneTenant) {
  AddWorker("w1");
  for (const char* id : {"d", "a", "c", "b"}) ASSERT_THAT(Create(id), IsOk());
  ASSERT_THAT(Create("z", "acme"), IsOk());
  std::string listed;
  v1::ListSessionsRequest request;
  request.set_page_size(3);
  int n_pages = 0;
  do {
    v1::ListSessionsResponse response;
    ASSERT_TRUE(inference_->ListSessions(Context().get(), request, &response).ok());
    for (const v1::Session& session : response.sessions()) listed += session.session_id();
    request.set_page_token(response.next_page_token());
    ++n_pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(listed, "abcd");
  EXPECT_EQ(n_pages, 2);
  v1::ListSessionsResponse response;
  for (const char* bad : {"x", "00000000", "0000000061", "a"}) {
    request.set_page_token(bad);
    EXPECT_EQ(inference_->ListSessions(Context().get(), request, &response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT)
        << bad;
  }
  request.clear_page_token();
  request.set_page_size(1001);
  EXPECT_EQ(inference_->ListSessions(Context().get(), request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, ModelsAndTokenizersAreTheWorkers) {
  AddWorker("w1");
  AddWorker("w2");
  AddWorker("w3", {.model = "other"});
  v1::ListModelsResponse models;
  ASSERT_TRUE(inference_->ListModels(Context().get(), {}, &models).ok());
  ASSERT_EQ(models.models_size(), 2);
  EXPECT_EQ(models.models(0).name(), "fake");
  EXPECT_THAT(Create("s"), StatusIs(kInvalidArgument, "fake, other"));
  v1::TokenizeRequest text;
  text.set_model("fake");
  text.set_text("ab");
  v1::TokenizeResponse ids;
  ASSERT_TRUE(inference_->Tokenize(Context().get(), text, &ids).ok());
  EXPECT_EQ(ids.ids_size(), 2);
  v1::DetokenizeRequest back;
  back.set_model("fake");
  *back.mutable_ids() = ids.ids();
  v1::DetokenizeResponse same;
  ASSERT_TRUE(inference_->Detokenize(Context().get(), back, &same).ok());
  EXPECT_EQ(same.text(), "ab");
  text.set_model("nope");
  EXPECT_EQ(inference_->Tokenize(Context().get(), text, &ids).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

class BoundedServiceTest : public ClusterFixture {
 protected:
  BoundedServiceTest() { options_.admission = {.calls_max = 3, .worker_calls_max = 1}; }
};

TEST_F(BoundedServiceTest, FullQueueIsRefusedWithRetryAfter) {
  AddWorker("w1").set_token_delay(absl::Milliseconds(5));
  ASSERT_THAT(Create("a"), IsOk());
  ASSERT_THAT(Create("b"), IsOk());
  const auto context = Context();
  std::thread running([&] { Generate("a", "p", 10000, context.get()); });
  Eventually([&] { return WorkerAt("w1").n_tokens_sent() > 0; }, "first call runs");
  const Answer refused = Generate("b", "p", 1);
  EXPECT_THAT(refused.status, StatusIs(kResourceExhausted, "1 calls in flight, at most 1"));
  EXPECT_EQ(rpc::ReasonOf(refused.status), "worker_full");
  EXPECT_GT(rpc::RetryAfterOf(refused.status), absl::ZeroDuration());
  EXPECT_GT(MetricSum("lexico_admission_rejections_total"), 0);
  context->TryCancel();
  running.join();
  Eventually([&] { return Generate("b", "p", 1).status.ok(); }, "room again");
}

}  // namespace
}  // namespace lexico::coord

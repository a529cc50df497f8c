// Calls of the worker service: what is in the session, and in the store, after each.
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "tests/worker/service_fixture.h"
#include "worker/service/run_call.h"

namespace lexico::worker {
namespace {

TEST_F(ServiceTest, FinishedCallsAreInTheStoreBeforeTheyAreAnswered) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  const auto appended = worker_.Append("s", 1, Document());
  ASSERT_THAT(appended, IsOk());
  EXPECT_EQ(appended->session().n_durable_tokens(), appended->session().n_tokens());
  EXPECT_EQ(static_cast<int64_t>(store_.ManifestOf("s").tokens.size()),
            appended->session().n_tokens());
  const Answer answer = Generate(worker_, MakeRun("s", 1, 5));
  ASSERT_THAT(answer.status, IsOk());
  EXPECT_GT(static_cast<int64_t>(store_.ManifestOf("s").tokens.size()),
            appended->session().n_tokens() + 5);
  EXPECT_EQ(store_.ManifestOf("s").epoch, 1u);
  EXPECT_EQ(store_.ManifestOf("s").model_name, "lexico-20m");
}

TEST_F(ServiceTest, OffloadedSessionGoesOnElsewhereBitForBit) {
  for (const char* id : {"s", "control"}) {
    ASSERT_THAT(worker_.Open(id, 1), IsOk());
    ASSERT_THAT(worker_.Append(id, 1, Document()), IsOk());
  }
  const Answer expected = Generate(worker_, MakeRun("control", 1, 20));
  ASSERT_THAT(expected.status, IsOk());
  const auto offloaded = worker_.Offload("s", 1);
  ASSERT_THAT(offloaded, IsOk());
  EXPECT_EQ(offloaded->state(), v1::SESSION_STATE_OFFLOADED);
  EXPECT_THAT(worker_.Describe("s", 1), StatusIs(StatusCode::kNotFound, "s"));
  const auto restored = other_.Restore("s", 2);
  ASSERT_THAT(restored, IsOk());
  EXPECT_EQ(restored->epoch(), 2u);
  EXPECT_EQ(restored->n_tokens(), offloaded->n_tokens());
  EXPECT_EQ(store_.ManifestOf("s").epoch, 2u);  // the former owner is fenced
  const Answer answer = Generate(other_, MakeRun("s", 2, 20));
  ASSERT_THAT(answer.status, IsOk());
  EXPECT_EQ(answer.ids, expected.ids);
  EXPECT_EQ(answer.finished.usage().n_context_tokens(),
            expected.finished.usage().n_context_tokens());
}

TEST_F(ServiceTest, LostAndUnsealedTokensArePrefilledAgain) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  const auto appended = worker_.Append("s", 1, Document());
  ASSERT_THAT(appended, IsOk());
  ASSERT_TRUE(Eventually([&] { return worker_.writer().pages_behind() == 0; }));
  const int64_t n_sealed = appended->session().n_sealed_tokens();
  ASSERT_GE(n_sealed, 96);
  // As after a crash: no window, and the third page of one layer is gone.
  store_.LosePages([](const store::PageHeader& header) {
    return header.layer == 3 && header.first_token == 64;
  });
  const auto restored = other_.Restore("s", 2);
  ASSERT_THAT(restored, IsOk());
  EXPECT_EQ(restored->n_tokens(), appended->session().n_tokens());
  EXPECT_EQ(restored->n_sealed_tokens(), 64);
  const Answer answer = Generate(other_, MakeRun("s", 2, 5));
  ASSERT_THAT(answer.status, IsOk());
  EXPECT_EQ(answer.finished.usage().n_context_tokens(), 64);
  EXPECT_EQ(other_.Describe("s", 2)->n_sealed_tokens() >= n_sealed, true);
}

TEST_F(ServiceTest, InterruptedCallGoesOnWhereItsClientIs) {
  for (const char* id : {"s", "control"}) ASSERT_THAT(worker_.Open(id, 1), IsOk());
  const Answer whole = Generate(worker_, MakeRun("control", 1, 12));
  ASSERT_THAT(whole.status, IsOk());
  v1::RunRequest request = MakeRun("s", 1, 12);
  request.mutable_resume_ids()->Assign(whole.ids.begin(), whole.ids.begin() + 5);
  const Answer rest = Generate(worker_, request);
  ASSERT_THAT(rest.status, IsOk());
  EXPECT_EQ(rest.ids, std::vector<int32_t>(whole.ids.begin() + 5, whole.ids.end()));
  for (const v1::GenerateEvent& event : rest.events) {
    if (!event.has_token()) continue;
    EXPECT_EQ(event.token().index(), 5);
    break;
  }
  EXPECT_EQ(worker_.Describe("s", 1)->n_tokens(), worker_.Describe("control", 1)->n_tokens());
}

TEST_F(ServiceTest, InterruptedCallThatWasStoredIsReadFromTheLog) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  v1::RunRequest request = MakeRun("s", 1, 12);
  request.set_call_id("the first");
  const Answer whole = Generate(worker_, request);
  ASSERT_THAT(whole.status, IsOk());
  const int64_t n_tokens = worker_.Describe("s", 1)->n_tokens();
  ASSERT_THAT(other_.Restore("s", 2), IsOk());
  request.mutable_session()->set_epoch(2);
  request.mutable_resume_ids()->Assign(whole.ids.begin(), whole.ids.begin() + 7);
  const Answer rest = Generate(other_, request);
  ASSERT_THAT(rest.status, IsOk());
  EXPECT_EQ(rest.ids, std::vector<int32_t>(whole.ids.begin() + 7, whole.ids.end()));
  EXPECT_EQ(rest.finished.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(other_.Describe("s", 2)->n_tokens(), n_tokens);  // the turn is there once
  // The same question in another call is a new one.
  request.clear_resume_ids();
  request.set_call_id("the second");
  ASSERT_THAT(Generate(other_, request).status, IsOk());
  EXPECT_GT(other_.Describe("s", 2)->n_tokens(), n_tokens);
}

TEST_F(ServiceTest, CallThatWasLostBeforeItsFirstEventIsInTheSessionOnce) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());
  const int64_t n_before = worker_.Describe("s", 1)->n_tokens();
  v1::RunRequest request = MakeRun("s", 1, 12);
  request.mutable_request()->mutable_sampling()->set_seed(0);  // the worker's choice
  request.mutable_request()->mutable_sampling()->set_temperature(1);
  request.set_call_id("the call");
  const Answer lost = Generate(worker_, request);  // nothing of it reached the coordinator
  ASSERT_THAT(lost.status, IsOk());
  const int64_t n_tokens = worker_.Describe("s", 1)->n_tokens();
  const auto expect_same = [&](const Answer& again) {
    ASSERT_THAT(again.status, IsOk());
    EXPECT_EQ(again.ids, lost.ids);
    EXPECT_EQ(again.text, lost.text);
    ASSERT_TRUE(again.events.front().has_started());
    EXPECT_EQ(again.events.front().started().position(), n_before);
    EXPECT_EQ(again.events.front().started().seed(), lost.events.front().started().seed());
    EXPECT_EQ(again.finished.reason(), lost.finished.reason());
    const v1::Usage& usage = again.finished.usage();
    EXPECT_EQ(usage.n_generated_tokens(), 12);
    EXPECT_EQ(usage.n_context_tokens() + usage.n_prompt_tokens(),
              lost.finished.usage().n_context_tokens() + lost.finished.usage().n_prompt_tokens());
  };
  expect_same(Generate(worker_, request));
  EXPECT_EQ(worker_.Describe("s", 1)->n_tokens(), n_tokens);
  // On another worker, from the store.
  ASSERT_THAT(other_.Restore("s", 2), IsOk());
  request.mutable_session()->set_epoch(2);
  expect_same(Generate(other_, request));
  EXPECT_EQ(other_.Describe("s", 2)->n_tokens(), n_tokens);
}

TEST_F(ServiceTest, SameQuestionAskedAgainAndInterruptedIsNotTheEarlierCall) {
  for (const char* id : {"s", "control"}) {
    ASSERT_THAT(worker_.Open(id, 1), IsOk());
    ASSERT_THAT(Generate(worker_, MakeRun(id, 1, 12)).status, IsOk());
  }
  const int64_t n_before = worker_.Describe("s", 1)->n_tokens();
  v1::RunRequest control = MakeRun("control", 1, 12);
  control.set_call_id("another");
  const Answer again = Generate(worker_, control);
  ASSERT_THAT(again.status, IsOk());
  ASSERT_TRUE(again.events.front().has_started());
  EXPECT_EQ(again.events.front().started().position(), n_before);
  v1::RunRequest request = MakeRun("s", 1, 12);
  request.mutable_resume_ids()->Assign(again.ids.begin(), again.ids.begin() + 5);
  request.set_call_id("the second");
  const Answer rest = Generate(worker_, request);
  ASSERT_THAT(rest.status, IsOk());
  EXPECT_EQ(rest.ids, std::vector<int32_t>(again.ids.begin() + 5, again.ids.end()));
  const int64_t n_tokens = worker_.Describe("control", 1)->n_tokens();
  EXPECT_EQ(worker_.Describe("s", 1)->n_tokens(), n_tokens);
  // Once more for the reply that was lost: now the call is the one in the log.
  const Answer replayed = Generate(worker_, request);
  ASSERT_THAT(replayed.status, IsOk());
  EXPECT_EQ(replayed.ids, rest.ids);
  EXPECT_EQ(worker_.Describe("s", 1)->n_tokens(), n_tokens);
}

TEST_F(ServiceTest, ResumedIdsThatEndTheAnswerAreOnlyAppended) {
  for (const char* id : {"s", "control"}) ASSERT_THAT(worker_.Open(id, 1), IsOk());
  const Answer whole = Generate(worker_, MakeRun("control", 1, 6));
  ASSERT_THAT(whole.status, IsOk());
  v1::RunRequest request = MakeRun("s", 1, 6);
  request.mutable_resume_ids()->Assign(whole.ids.begin(), whole.ids.end());
  const Answer rest = Generate(worker_, request);
  ASSERT_THAT(rest.status, IsOk());
  EXPECT_TRUE(rest.ids.empty());
  EXPECT_EQ(rest.finished.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(worker_.Describe("s", 1)->n_tokens(), worker_.Describe("control", 1)->n_tokens());
}

TEST_F(ServiceTest, StaleEpochIsRefusedAndTheSmallerOwnerDropsTheSession) {
  ASSERT_THAT(worker_.Open("s", 5), IsOk());
  EXPECT_THAT(Generate(worker_, MakeRun("s", 4, 2)).status,
              StatusIs(StatusCode::kAborted, "epoch 5"));
  EXPECT_THAT(worker_.Describe("s", 5), IsOk());
  EXPECT_THAT(Generate(worker_, MakeRun("s", 6, 2)).status,
              StatusIs(StatusCode::kAborted, "epoch 5"));
  EXPECT_THAT(worker_.Describe("s", 5), StatusIs(StatusCode::kNotFound, "s"));
}

TEST_F(ServiceTest, FormerOwnerCannotWriteOverTheNewOne) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());
  ASSERT_THAT(other_.Restore("s", 2), IsOk());
  const size_t n_tokens = store_.ManifestOf("s").tokens.size();
  EXPECT_THAT(worker_.Append("s", 1, "From the past."), StatusIs(StatusCode::kAborted, ""));
  EXPECT_EQ(store_.ManifestOf("s").tokens.size(), n_tokens);
}

TEST_F(ServiceTest, ManifestOfAnEarlierSessionOfThatIdIsNotRestored) {
  ASSERT_THAT(worker_.Open("s", 7, "acme", 1000), IsOk());
  ASSERT_THAT(worker_.Append("s", 7, Document()), IsOk());
  // Not another tenant's, not a later session's of the same tenant; neither from the store nor from
  // what a worker still holds, and whatever the epoch.
  for (const uint64_t epoch : {2, 9}) {
    EXPECT_THAT(other_.Restore("s", epoch, "", 1000), StatusIs(StatusCode::kNotFound, "s"));
    EXPECT_THAT(other_.Restore("s", epoch, "acme", 2000), StatusIs(StatusCode::kNotFound, "s"));
  }
  EXPECT_THAT(worker_.Restore("s", 9, "other", 2000), StatusIs(StatusCode::kNotFound, "s"));
  EXPECT_THAT(worker_.Describe("s", 7), StatusIs(StatusCode::kNotFound, "s"));
  // The new session of that id begins empty, and its first commit takes the place in the store.
  const auto opened = other_.Open("s", 2, "other", 2000);
  ASSERT_THAT(opened, IsOk());
  EXPECT_EQ(opened->n_tokens(), 0);
  ASSERT_THAT(other_.Append("s", 2, "A short text."), IsOk());
  EXPECT_EQ(store_.ManifestOf("s").tenant, "other");
  EXPECT_THAT(worker_.Restore("s", 9, "acme", 1000), StatusIs(StatusCode::kNotFound, "s"));
  const auto restored = worker_.Restore("s", 3, "other", 2000);
  ASSERT_THAT(restored, IsOk());
  EXPECT_EQ(restored->tenant(), "other");
}

TEST_F(ServiceTest, AnswersGoOnWhileTheStoreIsDown) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  store_.Fail(absl::UnavailableError("connection refused"));
  const auto appended = worker_.Append("s", 1, Document());
  ASSERT_THAT(appended, IsOk());
  EXPECT_EQ(appended->session().n_durable_tokens(), 0);
  EXPECT_THAT(Generate(worker_, MakeRun("s", 1, 40)).status, IsOk());
  EXPECT_GT(worker_.writer().pages_behind(), 0);
  const auto offloaded = worker_.Offload("s", 1);
  EXPECT_THAT(offloaded, StatusIs(StatusCode::kUnavailable, "stays on this worker"));
  EXPECT_EQ(rpc::ReasonOf(offloaded.status()), "store_unavailable");
  EXPECT_THAT(other_.Restore("x", 2), StatusIs(StatusCode::kUnavailable, "cache store"));
  store_.Fail(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] {
    const auto session = worker_.Describe("s", 1);
    return session.ok() && session->n_durable_tokens() == session->n_tokens() &&
           worker_.writer().pages_behind() == 0;
  }));
}

TEST_F(ServiceTest, StateThatIsWrittenBehindNeverComesAfterANewerOne) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  store_.Fail(absl::UnavailableError("connection refused"));
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());
  std::atomic<int64_t> n_tokens = 0;
  store_.InNextHasPages(
      [&] { n_tokens = worker_.Append("s", 1, "And more.")->session().n_tokens(); });
  store_.Fail(absl::OkStatus());
  ASSERT_TRUE(Eventually([&] { return n_tokens > 0; }));
  ASSERT_TRUE(
      Eventually([&] { return store_.HasManifest("s") && worker_.writer().pages_behind() == 0; }));
  absl::SleepFor(absl::Milliseconds(100));  // the older state would have come by now
  EXPECT_EQ(static_cast<int64_t>(store_.ManifestOf("s").tokens.size()), n_tokens);
  EXPECT_EQ(store_.n_overtaken(), 0);
}

TEST_F(ServiceTest, PagesThatLeftAFullQueueAreStoredLater) {
  TestWorker worker("w3", &store_, /*queue_bytes=*/40000);  // six pages
  store_.Fail(absl::UnavailableError("connection refused"));
  ASSERT_THAT(worker.Open("s", 1), IsOk());
  ASSERT_THAT(worker.Append("s", 1, Document()), IsOk());
  const int64_t n_pages = worker.Describe("s", 1)->n_sealed_tokens() / base::kPageTokens *
                          EmbeddedModel().transformer->config().n_layers;
  ASSERT_GE(n_pages, 24);
  EXPECT_EQ(worker.writer().pages_behind(), n_pages);  // wherever they wait
  store_.Fail(absl::OkStatus());
  ASSERT_TRUE(Eventually([&] { return store_.HasManifest("s"); }));
  const std::vector<store::PageKey> keys = store_.ManifestOf("s").page_keys;
  ASSERT_GE(keys.size(), 24u);
  EXPECT_TRUE(Eventually([&] {
    const auto has = store_.HasPages(keys, absl::InfiniteFuture());
    return has.ok() && std::count(has->begin(), has->end(), false) == 0 &&
           worker.writer().pages_behind() == 0;
  }));
}

TEST_F(ServiceTest, AnswerEndsWithItsTurnClosedWithinThePositions) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  const int n_max = EmbeddedModel().transformer->config().max_positions;
  worker_.set_max_positions(100);
  const Answer answer = Generate(worker_, MakeRun("s", 1, 500));
  ASSERT_THAT(answer.status, IsOk());
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(worker_.Describe("s", 1)->n_tokens(), 100);
  const absl::Status full = Generate(worker_, MakeRun("s", 1, 500)).status;
  EXPECT_THAT(full, StatusIs(StatusCode::kFailedPrecondition, "100 positions"));
  EXPECT_EQ(rpc::ReasonOf(full), "context_full");
  worker_.set_max_positions(n_max);
  EXPECT_THAT(Generate(worker_, MakeRun("s", 1, 2)).status, IsOk());
}

TEST_F(ServiceTest, CancelledCallStaysAtItsLastTokenAndIsStoredLater) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());
  const size_t n_stored = store_.ManifestOf("s").tokens.size();
  const Answer answer =
      Generate(worker_, MakeRun("s", 1, 3000), [](const v1::GenerateEvent& event) {
        return !event.has_token() || event.token().index() < 3;
      });
  EXPECT_TRUE(absl::IsCancelled(answer.status));
  ASSERT_TRUE(
      Eventually([&] { return worker_.Describe("s", 1)->state() == v1::SESSION_STATE_READY; }));
  const int64_t n_tokens = worker_.Describe("s", 1)->n_tokens();
  EXPECT_GT(n_tokens, static_cast<int64_t>(n_stored));
  EXPECT_LT(n_tokens, static_cast<int64_t>(n_stored) + 500);
  // Not at once: a coordinator that lost the stream would find a turn it is about to repeat.
  EXPECT_EQ(store_.ManifestOf("s").tokens.size(), n_stored);
  // The next turn stands behind a closed one.
  EXPECT_THAT(Generate(worker_, MakeRun("s", 1, 3)).status, IsOk());
  EXPECT_GT(static_cast<int64_t>(store_.ManifestOf("s").tokens.size()), n_tokens);
}

TEST_F(ServiceTest, ForksShareThePastAndNothingElse) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());
  v1::WorkerForkRequest request;
  request.mutable_session()->set_session_id("s");
  request.mutable_session()->set_epoch(1);
  request.set_new_session_id("f");
  request.set_new_epoch(4);
  const auto fork = worker_.Call(&v1::WorkerService::Stub::Fork, request);
  ASSERT_THAT(fork, IsOk());
  EXPECT_EQ(fork->parent_session_id(), "s");
  EXPECT_EQ(fork->epoch(), 4u);
  EXPECT_EQ(store_.ManifestOf("f").parent_session_id, "s");
  EXPECT_EQ(Generate(worker_, MakeRun("f", 4, 8)).ids, Generate(worker_, MakeRun("s", 1, 8)).ids);
}

TEST_F(ServiceTest, IdsOutsideTheVocabularyAreRefused) {
  v1::DetokenizeRequest request;
  request.add_ids(99999999);
  EXPECT_THAT(worker_.Call(&v1::WorkerService::Stub::DetokenizeIds, request),
              StatusIs(StatusCode::kInvalidArgument, "token id 99999999"));
  request.set_ids(0, 8);
  EXPECT_THAT(worker_.Call(&v1::WorkerService::Stub::DetokenizeIds, request), IsOk());
}

TEST_F(ServiceTest, ReleaseDropsHereAndWithDeleteStoredEverywhere) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());
  v1::ReleaseRequest request;
  request.mutable_session()->set_session_id("s");
  request.mutable_session()->set_epoch(1);
  ASSERT_THAT(worker_.Call(&v1::WorkerService::Stub::Release, request), IsOk());
  EXPECT_TRUE(store_.HasManifest("s"));
  EXPECT_THAT(worker_.Call(&v1::WorkerService::Stub::Release, request),
              StatusIs(StatusCode::kNotFound, "s"));
  request.set_delete_stored(true);
  ASSERT_THAT(other_.Call(&v1::WorkerService::Stub::Release, request), IsOk());
  EXPECT_FALSE(store_.HasManifest("s"));
}

TEST_F(ServiceTest, RestoreWithoutItsFenceFailsAndLeavesNothing) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());
  ASSERT_TRUE(Eventually([&] { return worker_.writer().pages_behind() == 0; }));
  for (const absl::Status& why :
       {absl::UnavailableError("refused"), absl::DeadlineExceededError("slow")}) {
    store_.InNextGetPages([&] { store_.Fail(why); });
    const auto restored = other_.Restore("s", 2);
    EXPECT_THAT(restored, StatusIs(StatusCode::kUnavailable, "cache store"));
    EXPECT_EQ(rpc::ReasonOf(restored.status()), "store_unavailable");
    store_.Fail(absl::OkStatus());
    EXPECT_TRUE(other_.service().Held().empty());
    EXPECT_TRUE(other_.engine().List().empty());
  }
  EXPECT_THAT(other_.Restore("s", 2), IsOk());
}

TEST_F(ServiceTest, RestoreThatIsOvertakenByAnotherCallLeavesNothingInTheEngine) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());
  store_.InNextGetPages([&] {
    EXPECT_THAT(other_.table().Add(SessionRecord{.session_id = "s", .epoch = 2}), IsOk());
  });
  EXPECT_THAT(other_.Restore("s", 2), StatusIs(StatusCode::kAlreadyExists, "s"));
  EXPECT_TRUE(other_.engine().List().empty());
  other_.table().Drop("s", 2);
  EXPECT_THAT(other_.Restore("s", 3), IsOk());
}

TEST_F(ServiceTest, HeldCopyIsKeptOnlyWhenTheStoreHasNothingNewer) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());
  // Its own state: kept, windows and all.
  const auto kept = worker_.Restore("s", 2);
  ASSERT_THAT(kept, IsOk());
  EXPECT_EQ(kept->n_durable_tokens(), kept->n_tokens());
  EXPECT_EQ(store_.ManifestOf("s").epoch, 2u);
  // The other worker owned it since, and went on.
  ASSERT_THAT(other_.Restore("s", 3), IsOk());
  const auto newer = other_.Append("s", 3, "From the other worker.");
  ASSERT_THAT(newer, IsOk());
  const auto back = worker_.Restore("s", 4);
  ASSERT_THAT(back, IsOk());
  EXPECT_EQ(back->n_tokens(), newer->session().n_tokens());
  // Nobody can tell while the store is down; the copy waits.
  store_.Fail(absl::UnavailableError("connection refused"));
  EXPECT_THAT(worker_.Restore("s", 5), StatusIs(StatusCode::kUnavailable, "cache store"));
  EXPECT_THAT(worker_.Describe("s", 4), IsOk());
  store_.Fail(absl::OkStatus());
  EXPECT_THAT(worker_.Restore("s", 5), IsOk());
}

TEST_F(ServiceTest, SessionThatTheStoreCannotDeleteStaysWhole) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  store_.Fail(absl::UnavailableError("connection refused"));
  ASSERT_THAT(worker_.Append("s", 1, Document()), IsOk());  // not stored
  v1::ReleaseRequest request;
  request.mutable_session()->set_session_id("s");
  request.mutable_session()->set_epoch(1);
  request.set_delete_stored(true);
  const auto failed = worker_.Call(&v1::WorkerService::Stub::Release, request);
  EXPECT_THAT(failed, StatusIs(StatusCode::kUnavailable, "cache store"));
  EXPECT_EQ(rpc::ReasonOf(failed.status()), "store_unavailable");
  EXPECT_THAT(Generate(worker_, MakeRun("s", 1, 2)).status, IsOk());
  store_.Fail(absl::OkStatus());
  ASSERT_THAT(worker_.Call(&v1::WorkerService::Stub::Release, request), IsOk());
  EXPECT_THAT(worker_.Describe("s", 1), StatusIs(StatusCode::kNotFound, "s"));
  EXPECT_FALSE(store_.HasManifest("s"));
}

TEST_F(ServiceTest, WrongRequestsAreRefusedWithBothValues) {
  ASSERT_THAT(worker_.Open("s", 1), IsOk());
  EXPECT_THAT(worker_.Open("s", 1), StatusIs(StatusCode::kAlreadyExists, "s"));
  EXPECT_THAT(worker_.Open("t", 0), StatusIs(StatusCode::kInvalidArgument, "epoch"));
  EXPECT_THAT(worker_.Append("s", 1, "ab\xFF"), StatusIs(StatusCode::kInvalidArgument, "offset 2"));
  v1::RunRequest request = MakeRun("s", 1, 2);
  request.mutable_request()->mutable_sampling()->set_temperature(-1);
  EXPECT_THAT(Generate(worker_, request).status, StatusIs(StatusCode::kInvalidArgument, "-1"));
  request = MakeRun("s", 1, 40000);
  EXPECT_THAT(Generate(worker_, request).status, StatusIs(StatusCode::kInvalidArgument, "32768"));
  request = MakeRun("s", 1, 2);
  request.mutable_request()->add_stop("");
  EXPECT_THAT(Generate(worker_, request).status, StatusIs(StatusCode::kInvalidArgument, "stop"));
  request = MakeRun("s", 1, 2);
  request.mutable_request()->set_prompt(std::string(2 << 20, 'a'));
  EXPECT_THAT(Generate(worker_, request).status, StatusIs(StatusCode::kInvalidArgument, "1048576"));
  // Protocol buffers themselves refuse text that is not UTF-8; this is for other ways in.
  request.mutable_request()->set_prompt("a\xC3");
  EXPECT_THAT(CheckRunRequest(request), StatusIs(StatusCode::kInvalidArgument, "prompt"));
  EXPECT_EQ(worker_.Describe("s", 1)->n_tokens(), 0);
}

TEST_F(ServiceTest, DrainStoresSessionsAndSendsRunningCallsElsewhere) {
  ASSERT_THAT(worker_.Open("idle", 1), IsOk());
  ASSERT_THAT(worker_.Append("idle", 1, Document()), IsOk());
  ASSERT_THAT(worker_.Open("busy", 1), IsOk());
  std::atomic<bool> is_running = false;
  Answer answer;
  std::thread call([&] {
    answer = Generate(worker_, MakeRun("busy", 1, 20000), [&](const v1::GenerateEvent& event) {
      is_running = is_running || event.has_token();
      return true;
    });
  });
  ASSERT_TRUE(Eventually([&] { return is_running.load(); }));
  EXPECT_EQ(worker_.service().Drain(absl::Seconds(2)), 0);
  call.join();
  EXPECT_TRUE(absl::IsUnavailable(answer.status)) << answer.status;
  EXPECT_EQ(rpc::ReasonOf(answer.status), "");  // as a lost connection
  EXPECT_TRUE(worker_.service().Held().empty());
  EXPECT_EQ(store_.ManifestOf("idle").window_keys.size(), 8u);
  EXPECT_FALSE(store_.HasManifest("busy"));  // never finished a call
  EXPECT_THAT(worker_.Open("new", 1), StatusIs(StatusCode::kUnavailable, "shutting down"));
}

TEST(ServiceWithoutStoreTest, SessionsLiveOnTheWorkerAlone) {
  TestWorker worker("w", nullptr);
  ASSERT_THAT(worker.Open("s", 1), IsOk());
  const auto appended = worker.Append("s", 1, Document());
  ASSERT_THAT(appended, IsOk());
  EXPECT_EQ(appended->session().n_durable_tokens(), 0);
  EXPECT_THAT(worker.Offload("s", 1), StatusIs(StatusCode::kFailedPrecondition, "--store"));
  EXPECT_THAT(worker.Restore("t", 1), StatusIs(StatusCode::kFailedPrecondition, "--store"));
}

TEST_F(ServiceTest, ADemotedSessionIsStoredAndComesBackAsThat) {
  FakeStoreClient store;
  TestWorker worker("w1", &store);
  v1::OpenSessionRequest open;
  open.set_session_id("s");
  open.set_epoch(1);
  open.set_profile("paper-s16");
  open.set_min_profile("paper-s4");
  ASSERT_THAT(worker.Call(&v1::WorkerService::Stub::OpenSession, open), IsOk());
  ASSERT_THAT(worker.Append("s", 1, Document()), IsOk());
  v1::DemoteRequest request;
  request.mutable_session()->set_session_id("s");
  request.mutable_session()->set_epoch(1);
  request.set_profile("paper-s32");
  EXPECT_THAT(worker.Call(&v1::WorkerService::Stub::Demote, request),
              StatusIs(StatusCode::kFailedPrecondition, "not fewer atoms"));
  request.set_profile("paper-s8");
  const auto demoted = worker.Call(&v1::WorkerService::Stub::Demote, request);
  ASSERT_THAT(demoted, IsOk());
  EXPECT_EQ(demoted->profile(), "paper-s8");
  EXPECT_EQ(demoted->birth_profile(), "paper-s16");
  // Behind the answer, under their new names.
  EXPECT_TRUE(Eventually([&] {
    if (store.ManifestOf("s").profile != "paper-s8") return false;
    const auto has = store.HasPages(store.ManifestOf("s").page_keys, absl::InfiniteFuture());
    return has.ok() && std::count(has->begin(), has->end(), false) == 0;
  }));
  EXPECT_EQ(store.ManifestOf("s").min_profile, "paper-s4");
  TestWorker other("w2", &store);
  v1::RestoreRequest restore;
  restore.set_session_id("s");
  restore.set_epoch(2);
  const auto restored = other.Call(&v1::WorkerService::Stub::Restore, restore);
  ASSERT_THAT(restored, IsOk());
  EXPECT_EQ(restored->profile(), "paper-s8");
  EXPECT_EQ(restored->birth_profile(), "paper-s16");
  EXPECT_EQ(restored->min_profile(), "paper-s4");
  EXPECT_EQ(restored->n_sealed_tokens(), demoted->n_sealed_tokens());
}

}  // namespace
}  // namespace lexico::worker

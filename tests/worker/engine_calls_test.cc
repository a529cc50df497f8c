// Calls at once: cancelling, deadlines, queues, full pools, threads.
#include <thread>

#include "tests/worker/engine_fixture.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

TEST_F(EngineTest, ASecondCallOnASessionIsRefused) {
  Open("s");
  Call call;
  call.HoldAt(1);
  ASSERT_THAT(engine_->Generate(Request("s", RandomIds(20), 4), call.callbacks()), IsOk());
  call.WaitForTokens();
  EXPECT_TRUE(engine_->Describe("s")->busy);
  for (const absl::Status& second :
       {Append("s", RandomIds(3)).result.status(), engine_->Fork("s", "t"),
        engine_->Export("s", true).status()}) {
    EXPECT_THAT(second, StatusIs(StatusCode::kFailedPrecondition, "has a call running"));
    EXPECT_EQ(ReasonOf(second), kReasonSessionBusy);
  }
  call.Resume();
  EXPECT_THAT(call.Wait().result, IsOk());
  EXPECT_FALSE(engine_->Describe("s")->busy);
}

TEST_F(EngineTest, ACancelledPrefillLeavesTheSessionAsItWas) {
  Open("s");
  ASSERT_THAT(Append("s", RandomIds(200)).result, IsOk());
  const SessionInfo before = *engine_->Describe("s");
  Call call;
  call.HoldAtSlice();
  const auto id = engine_->Generate(Request("s", RandomIds(800, 2), 10), call.callbacks());
  ASSERT_THAT(id, IsOk());
  call.WaitForSlice();
  EXPECT_GT(engine_->load().pool.used_bytes, before.memory.code_bytes + before.memory.window_bytes);
  engine_->Cancel(*id);
  call.Resume();
  const Outcome outcome = call.Wait();
  EXPECT_THAT(outcome.result, StatusIs(StatusCode::kCancelled, "cancelled"));
  EXPECT_TRUE(outcome.tokens.empty());
  const SessionInfo after = *engine_->Describe("s");
  EXPECT_EQ(after.n_tokens, before.n_tokens);
  EXPECT_EQ(after.n_sealed_tokens, before.n_sealed_tokens);
  EXPECT_EQ(engine_->load().pool.used_bytes, after.memory.code_bytes + after.memory.window_bytes);
  EXPECT_THAT(Generate(Request("s", RandomIds(5), 5)).result, IsOk());
}

TEST_F(EngineTest, ACancelledAnswerStaysAtItsLastToken) {
  Open("s");
  GenerateRequest request = Request("s", RandomIds(20), 900);
  request.closing_ids_otherwise = {4, 5, 6};
  Call call;
  call.HoldAt(8);
  const auto id = engine_->Generate(request, call.callbacks());
  ASSERT_THAT(id, IsOk());
  call.WaitForTokens();
  engine_->Cancel(*id);
  call.Resume();
  const Outcome outcome = call.Wait();
  EXPECT_THAT(outcome.result, StatusIs(StatusCode::kCancelled, "cancelled"));
  EXPECT_EQ(outcome.tokens.size(), 8u);
  EXPECT_EQ(engine_->Describe("s")->n_tokens, 20 + 8 + 3);
}

TEST_F(EngineTest, ADeadlineEndsACall) {
  Open("s");
  AppendRequest request{.session_id = "s", .ids = RandomIds(900)};
  request.deadline = absl::Now() - absl::Seconds(1);
  Call call;
  ASSERT_THAT(engine_->Append(request, call.callbacks()), IsOk());
  EXPECT_THAT(call.Wait().result, StatusIs(StatusCode::kDeadlineExceeded, "deadline"));
  EXPECT_EQ(engine_->Describe("s")->n_tokens, 0);
}

TEST_F(EngineTest, ADroppedSessionEndsItsCallAndGivesItsMemoryBack) {
  Open("s");
  Call call;
  call.HoldAt(2);
  ASSERT_THAT(engine_->Generate(Request("s", RandomIds(200), 800), call.callbacks()), IsOk());
  call.WaitForTokens();
  ASSERT_THAT(engine_->Drop("s"), IsOk());
  call.Resume();
  EXPECT_THAT(call.Wait().result, StatusIs(StatusCode::kAborted, "was dropped"));
  EXPECT_EQ(engine_->load().pool.used_bytes, 0u);
  EXPECT_THAT(engine_->Describe("s"), StatusIs(StatusCode::kNotFound, "s"));
}

TEST_F(EngineTest, AFullQueueSaysWhenToComeBack) {
  EngineOptions options = Defaults();
  options.waiting_max = 2;
  options.prefills_max = 1;
  Restart(options);
  std::vector<std::unique_ptr<Call>> calls;
  absl::Status refused;
  for (int i = 0; i < 40 && refused.ok(); ++i) {
    const std::string id = "s" + std::to_string(i);
    Open(id);
    calls.push_back(std::make_unique<Call>());
    refused = engine_->Append({.session_id = id, .ids = RandomIds(900)}, calls.back()->callbacks())
                  .status();
  }
  EXPECT_THAT(refused, StatusIs(StatusCode::kResourceExhausted, "at most 2 may"));
  EXPECT_EQ(ReasonOf(refused), kReasonQueueFull);
  EXPECT_GE(RetryAfterOf(refused), absl::Seconds(1));
  EXPECT_GE(metrics_.back()->Counter("lexico_admission_rejections_total", {"queue_full"}).Value(),
            1);
  calls.pop_back();
  for (const auto& call : calls) EXPECT_THAT(call->Wait().result, IsOk());
}

TEST_F(EngineTest, ADecodeGoesOnWhileALongPrefillRuns) {
  Open("talker");
  Open("reader");
  Call talk;
  talk.HoldAt(1);
  ASSERT_THAT(engine_->Generate(Request("talker", RandomIds(10), 300), talk.callbacks()), IsOk());
  talk.WaitForTokens();
  // Counts the talker's tokens at each slice; both run on the engine's thread.
  std::vector<size_t> tokens_at_slice;
  absl::Notification read;
  CallCallbacks callbacks;
  callbacks.on_progress = [&](double) { tokens_at_slice.push_back(talk.n_tokens()); };
  callbacks.on_finished = [&](const absl::StatusOr<CallResult>&) { read.Notify(); };
  ASSERT_THAT(engine_->Append({.session_id = "reader", .ids = RandomIds(1000)}, callbacks), IsOk());
  talk.Resume();
  read.WaitForNotification();
  ASSERT_THAT(talk.Wait().result, IsOk());
  ASSERT_GT(tokens_at_slice.size(), 10u);
  for (size_t i = 1; i < tokens_at_slice.size(); ++i) {
    EXPECT_EQ(tokens_at_slice[i], tokens_at_slice[i - 1] + 1) << "slice " << i;
  }
}

// A pool of few slabs.
class SmallPoolTest : public EngineTest {
 protected:
  SmallPoolTest() {
    EngineOptions options = Defaults();
    options.kv_memory_bytes = size_t{4} << 20;
    options.memory_wait_max = absl::Milliseconds(50);
    Restart(options);
  }
};

// Blocks of pages of 64 KiB: 1,000 dense tokens are more than a pool of two slabs has.
class LargePagesTest : public EngineTest {
 protected:
  static tests::TinyModelOptions Model() {
    tests::TinyModelOptions options;
    options.n_layers = 4;
    options.head_dim = 64;
    return options;
  }
  LargePagesTest() : EngineTest(Model()) {
    EngineOptions options = Defaults();
    options.kv_memory_bytes = size_t{2} << 20;
    Restart(options);
  }
};

TEST_F(LargePagesTest, ACallThatCanNeverFitIsRefusedAtOnce) {
  Open("s", "dense");
  const absl::Status refused = Append("s", RandomIds(1000)).result.status();
  EXPECT_THAT(refused, StatusIs(StatusCode::kResourceExhausted,
                                "would need 27 blocks of pages (64.0 KiB), the whole pool has 16"));
  EXPECT_EQ(ReasonOf(refused), kReasonPagesExhausted);
  EXPECT_FALSE(engine_->Describe("s")->busy);
  EXPECT_THAT(Append("s", RandomIds(600)).result, IsOk());
}

TEST_F(SmallPoolTest, ACallWaitsForMemoryAndThenIsRefusedWithBothNumbers) {
  absl::Status refused;
  int n = 0;
  for (; n < 60 && refused.ok(); ++n) {
    const std::string id = "s" + std::to_string(n);
    refused = engine_->OpenSession({.session_id = id, .profile = "dense"});
    if (refused.ok()) refused = Append(id, RandomIds(1000)).result.status();
  }
  EXPECT_THAT(refused, StatusIs(StatusCode::kResourceExhausted, "free"));
  EXPECT_EQ(ReasonOf(refused), kReasonPagesExhausted);
  // Dropping one makes room.
  ASSERT_THAT(engine_->Drop("s0"), IsOk());
  engine_->Drop("s" + std::to_string(n - 1)).IgnoreError();
  Open("again", "dense");
  EXPECT_THAT(Append("again", RandomIds(1000)).result, IsOk());
}

TEST_F(SmallPoolTest, AnAnswerThatRunsOutOfPagesEndsAndTheSessionStays) {
  // Fill the pool with sessions that all decode.
  std::vector<std::unique_ptr<Call>> calls;
  std::vector<std::string> ids;
  for (int i = 0; i < 10; ++i) {
    const std::string id = "s" + std::to_string(i);
    if (!engine_->OpenSession({.session_id = id, .profile = "dense"}).ok()) break;
    ids.push_back(id);
    calls.push_back(std::make_unique<Call>());
    ASSERT_THAT(engine_->Generate(Request(id, RandomIds(100), 900), calls.back()->callbacks()),
                IsOk());
  }
  int n_exhausted = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    const Outcome outcome = calls[i]->Wait();
    if (outcome.result.ok()) continue;
    EXPECT_THAT(outcome.result, StatusIs(StatusCode::kResourceExhausted, "pages"));
    ++n_exhausted;
    if (outcome.tokens.empty()) continue;
    const SessionInfo info = *engine_->Describe(ids[i]);
    EXPECT_EQ(info.n_tokens, 100 + static_cast<int64_t>(outcome.tokens.size()));
    EXPECT_FALSE(info.busy);
  }
  EXPECT_GT(n_exhausted, 0);
  for (const std::string& id : ids) ASSERT_THAT(engine_->Drop(id), IsOk());
  EXPECT_EQ(engine_->load().pool.used_bytes, 0u);
}

TEST_F(EngineTest, StoppingEndsRunningCalls) {
  Open("s");
  Call call;
  call.HoldAt(1);
  ASSERT_THAT(engine_->Generate(Request("s", RandomIds(10), 1000), call.callbacks()), IsOk());
  call.WaitForTokens();
  // Stops while the call stands still: the stop is seen before the next of 1,000 steps.
  std::thread stop([this] { engine_.reset(); });
  absl::SleepFor(absl::Milliseconds(50));
  call.Resume();
  stop.join();
  const Outcome outcome = call.Wait();
  EXPECT_THAT(outcome.result, StatusIs(StatusCode::kUnavailable, "stopping"));
  EXPECT_EQ(ReasonOf(outcome.result.status()), kReasonStopping);
}

TEST_F(EngineTest, ManyThreadsUseItAtOnce) {
  const auto work = [this](int thread) {
    const std::string id = "t" + std::to_string(thread);
    for (int round = 0; round < 3; ++round) {
      ASSERT_THAT(engine_->OpenSession(
                      {.session_id = id, .profile = thread % 2 == 0 ? "dense" : "paper-s4"}),
                  IsOk());
      ASSERT_THAT(Append(id, RandomIds(180, thread)).result, IsOk());
      ASSERT_THAT(engine_->Fork(id, id + "f"), IsOk());
      Call call;
      const auto started = engine_->Generate(Request(id + "f", RandomIds(4), 40), call.callbacks());
      ASSERT_THAT(started, IsOk());
      ASSERT_THAT(engine_->Describe(id + "f"), IsOk());
      engine_->List();
      engine_->load();
      if (round == 1) engine_->Cancel(*started);
      call.Wait();
      ASSERT_THAT(engine_->Export(id, true), IsOk());
      ASSERT_THAT(engine_->Drop(id), IsOk());
      ASSERT_THAT(engine_->Drop(id + "f"), IsOk());
    }
  };
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) threads.emplace_back(work, thread);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(engine_->load().pool.used_bytes, 0u);
}

TEST_F(EngineTest, OptionsOutsideTheirRangeAreRefused) {
  base::Metrics metrics("worker");
  EngineOptions options = Defaults();
  options.prefills_max = 0;
  EXPECT_THAT(Engine::Create(options, model_, base::Clock::Real(), &metrics),
              StatusIs(StatusCode::kInvalidArgument, "prefills_max is 0, allowed are 1 to 64"));
  options = Defaults();
  options.kv_memory_bytes = 1000;
  EXPECT_THAT(Engine::Create(options, model_, base::Clock::Real(), &metrics),
              StatusIs(StatusCode::kInvalidArgument, "--kv_memory"));
}

}  // namespace
}  // namespace lexico::worker

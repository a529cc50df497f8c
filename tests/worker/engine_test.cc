// What the engine computes, and what it leaves in a session.
#include <algorithm>
#include <cmath>

#include "tests/worker/engine_fixture.h"
#include "worker/engine/prefill.h"
#include "worker/model/exact_decoder.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

tests::TinyModelOptions F32Model() {
  tests::TinyModelOptions options;
  options.dtype = "float32";
  return options;
}

// With an F32 cache and profile dense nothing is approximate: the engine must agree with the plain
// decoder up to the order of sums.
class ExactEngineTest : public EngineTest {
 protected:
  ExactEngineTest() : EngineTest(F32Model()) {}

  void ExpectLogprobs(const Outcome& outcome, const std::vector<int32_t>& context) {
    ExactDecoder decoder(*model_[0].transformer, stream_);
    std::vector<float> logits = *decoder.Append(context);
    for (const GeneratedToken& token : outcome.tokens) {
      double sum = 0;
      for (const float x : logits) sum += std::exp(static_cast<double>(x));
      EXPECT_NEAR(token.sampled.logprob, logits[token.sampled.id] - std::log(sum), 2e-4);
      logits = *decoder.Append({&token.sampled.id, 1});
    }
  }
};

TEST_F(ExactEngineTest, DenseAgreesWithTheDefinition) {
  Open("s", "dense");
  const std::vector<int32_t> prompt = RandomIds(300);
  const Outcome outcome = Generate(Request("s", prompt, 50));
  ASSERT_THAT(outcome.result, IsOk());
  ASSERT_EQ(outcome.tokens.size(), 50u);
  ExpectLogprobs(outcome, prompt);
}

TEST_F(ExactEngineTest, DenseAgreesWhateverThePiecesOfTheContext) {
  const std::vector<int32_t> context = RandomIds(600);
  for (const std::vector<int>& pieces : {std::vector<int>{600},
                                         {1, 599},
                                         {255, 2, 343},
                                         {128, 128, 128, 128, 88},
                                         {590, 10},
                                         {592, 8},
                                         {3, 300, 5, 292}}) {
    Restart({});
    Open("s", "dense");
    size_t at = 0;
    for (size_t i = 0; i + 1 < pieces.size(); ++i) {
      ASSERT_THAT(Append("s", {context.begin() + at, context.begin() + at + pieces[i]}).result,
                  IsOk());
      at += pieces[i];
    }
    const Outcome outcome = Generate(Request("s", {context.begin() + at, context.end()}, 3));
    ASSERT_THAT(outcome.result, IsOk());
    EXPECT_EQ(outcome.result->usage.n_context_tokens, static_cast<int64_t>(at));
    ExpectLogprobs(outcome, context);
  }
}

TEST_F(ExactEngineTest, SequencesDecodedTogetherEqualSequencesAlone) {
  std::vector<Outcome> alone;
  for (int i = 0; i < 3; ++i) {
    Open("alone" + std::to_string(i), i == 1 ? "paper-s4" : "dense");
    alone.push_back(Generate(Request("alone" + std::to_string(i), RandomIds(150 + 40 * i, i), 40)));
  }
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 3; ++i) {
    Open("together" + std::to_string(i), i == 1 ? "paper-s4" : "dense");
    calls.push_back(std::make_unique<Call>());
    ASSERT_THAT(
        engine_->Generate(Request("together" + std::to_string(i), RandomIds(150 + 40 * i, i), 40),
                          calls.back()->callbacks()),
        IsOk());
  }
  for (int i = 0; i < 3; ++i) {
    const Outcome together = calls[i]->Wait();
    ASSERT_THAT(together.result, IsOk());
    // F32 weights are multiplied row by row (kernels/cpu/matmul.h): the same bits.
    ExpectSameTokens(alone[i], together);
  }
}

// Coded profiles: no definition to compare with, but relations that must hold.
TEST_F(EngineTest, ExactPrefillDoesNotDependOnTheProfile) {
  const std::vector<int32_t> prompt = RandomIds(500);
  std::vector<float> first;
  for (const char* profile : {"dense", "paper-s1", "paper-s16", "kv2r1", "kv0r3u"}) {
    Open(profile, profile);
    const Outcome outcome = Generate(Request(profile, prompt, 1));
    ASSERT_THAT(outcome.result, IsOk());
    first.push_back(outcome.tokens[0].sampled.logprob);
  }
  for (const float logprob : first) EXPECT_EQ(logprob, first[0]);
}

TEST_F(ExactEngineTest, AttendingToCodesDirectlyEqualsReconstructingThem) {
  const std::vector<int32_t> tail = RandomIds(9, 77);
  // Nine tokens are more than the direct way takes, eight and one are not.
  ASSERT_GT(9, kDirectRowsMax);
  for (const char* profile : {"paper-s4", "kv2r1", "k0r3u-v4"}) {
    SCOPED_TRACE(profile);
    const std::string direct_id = std::string("direct ") + profile;
    const std::string rebuilt_id = std::string("rebuilt ") + profile;
    Open(direct_id, profile);
    Open(rebuilt_id, profile);
    ASSERT_THAT(Append(direct_id, RandomIds(400)).result, IsOk());
    ASSERT_THAT(Append(rebuilt_id, RandomIds(400)).result, IsOk());
    ASSERT_THAT(Append(rebuilt_id, tail).result, IsOk());
    ASSERT_THAT(Append(direct_id, {tail.begin(), tail.begin() + 8}).result, IsOk());
    const Outcome direct = Generate(Request(direct_id, {tail[8]}, 5));
    const Outcome rebuilt = Generate(Request(rebuilt_id, {}, 5));
    ASSERT_THAT(direct.result, IsOk());
    ASSERT_THAT(rebuilt.result, IsOk());
    ASSERT_EQ(direct.ids(), rebuilt.ids());
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(direct.tokens[i].sampled.logprob, rebuilt.tokens[i].sampled.logprob, 1e-3);
    }
  }
}

TEST_F(EngineTest, AnEmptyPromptGoesOnFromTheNewestToken) {
  for (const int n : {5, 160, 300}) {
    Restart({});
    Open("a", "dense");
    Open("b", "dense");
    const std::vector<int32_t> ids = RandomIds(n);
    const Outcome whole = Generate(Request("a", ids, 4));
    ASSERT_THAT(Append("b", ids).result, IsOk());
    const Outcome continued = Generate(Request("b", {}, 4));
    ASSERT_THAT(continued.result, IsOk());
    EXPECT_EQ(continued.result->usage.n_prompt_tokens, 1);
    EXPECT_EQ(whole.ids(), continued.ids()) << n;
    EXPECT_EQ(engine_->Describe("a")->n_tokens, engine_->Describe("b")->n_tokens);
  }
}

TEST_F(EngineTest, ForksGoTheirOwnWays) {
  Open("parent");
  ASSERT_THAT(Append("parent", RandomIds(300)).result, IsOk());
  ASSERT_THAT(engine_->Fork("parent", "child"), IsOk());
  const Outcome child = Generate(Request("child", RandomIds(20, 1), 60));
  EXPECT_EQ(engine_->Describe("parent")->n_tokens, 300);
  // The parent answers as if there had been no child.
  const Outcome parent = Generate(Request("parent", RandomIds(20, 1), 60));
  ASSERT_THAT(parent.result, IsOk());
  ExpectSameTokens(parent, child);
}

TEST_F(EngineTest, TheLogHoldsPromptAnswerAndClosing) {
  Open("s");
  GenerateRequest request = Request("s", RandomIds(10), 6);
  request.closing_ids_after_end = {7};
  request.closing_ids_otherwise = {8, 9};
  const Outcome cut = Generate(request);
  ASSERT_THAT(cut.result, IsOk());
  EXPECT_EQ(cut.result->reason, FinishReason::kLength);
  EXPECT_EQ(cut.result->session.n_tokens, 10 + 6 + 2);
  EXPECT_EQ(cut.result->session.n_pending_tokens, 1 + 2);  // the last token was never fed

  request.prompt_ids = {3};
  request.eos_ids = RandomIds(61);  // the next token ends it, very probably
  for (int32_t id = 0; id < 61; ++id) request.eos_ids.push_back(id);
  const Outcome ended = Generate(request);
  ASSERT_THAT(ended.result, IsOk());
  EXPECT_EQ(ended.result->reason, FinishReason::kStop);
  EXPECT_TRUE(ended.tokens.back().is_end);
  EXPECT_EQ(ended.started.n_context_tokens, 15);
  EXPECT_EQ(ended.started.n_prompt_tokens, 3 + 1);
  const auto snapshot = engine_->Export("s", false);
  const std::vector<uint32_t>& log = snapshot->manifest.tokens;
  ASSERT_EQ(log.size(), 18u + 1 + 1 + 1);
  EXPECT_EQ(log[16], 8u);
  EXPECT_EQ(log[17], 9u);
  EXPECT_EQ(log[18], 3u);
  EXPECT_EQ(log[19], static_cast<uint32_t>(ended.ids()[0]));
  EXPECT_EQ(log[20], 7u);
}

TEST_F(EngineTest, AStopStringEndsTheCallAtItsToken) {
  Open("s");
  Call call;
  call.StopAt(3);
  ASSERT_THAT(engine_->Generate(Request("s", RandomIds(10), 50), call.callbacks()), IsOk());
  const Outcome outcome = call.Wait();
  ASSERT_THAT(outcome.result, IsOk());
  EXPECT_EQ(outcome.result->reason, FinishReason::kStopString);
  EXPECT_EQ(outcome.tokens.size(), 3u);
  EXPECT_EQ(outcome.result->session.n_tokens, 13);
}

TEST_F(EngineTest, EndTokensAreIgnoredOnRequest) {
  Open("s");
  GenerateRequest request = Request("s", RandomIds(10), 5);
  for (int32_t id = 0; id < 61; ++id) request.eos_ids.push_back(id);
  request.ignore_end_tokens = true;
  const Outcome outcome = Generate(request);
  ASSERT_THAT(outcome.result, IsOk());
  EXPECT_EQ(outcome.tokens.size(), 5u);
  EXPECT_FALSE(outcome.tokens[0].is_end);
}

TEST_F(ExactEngineTest, AResumedCallDrawsTheSameTokens) {
  GenerateRequest request = Request("a", RandomIds(200), 12);
  request.sampling.temperature = 1.5;
  request.sampling.seed = 99;
  Open("a", "dense");
  const Outcome whole = Generate(request);
  ASSERT_THAT(whole.result, IsOk());
  Open("b", "dense");
  request.session_id = "b";
  const std::vector<int32_t> ids = whole.ids();
  request.resume_ids = {ids.begin(), ids.begin() + 5};
  const Outcome resumed = Generate(request);
  ASSERT_THAT(resumed.result, IsOk());
  ASSERT_EQ(resumed.tokens.size(), 7u);
  EXPECT_EQ(resumed.tokens[0].index, 5);
  EXPECT_EQ(resumed.ids(), std::vector<int32_t>(ids.begin() + 5, ids.end()));
}

TEST_F(EngineTest, GenerationStopsAtTheLastPosition) {
  Open("s", "dense");
  ASSERT_THAT(Append("s", RandomIds(1020)).result, IsOk());
  const Outcome outcome = Generate(Request("s", RandomIds(2), 50));
  ASSERT_THAT(outcome.result, IsOk());
  EXPECT_EQ(outcome.result->reason, FinishReason::kLength);
  EXPECT_EQ(outcome.tokens.size(), 2u);
  EXPECT_EQ(outcome.result->session.n_tokens, 1024);
}

TEST_F(EngineTest, APromptOverThePositionsIsRefusedWithBothNumbers) {
  Open("s");
  const Outcome outcome = Append("s", RandomIds(1025));
  EXPECT_THAT(outcome.result, StatusIs(StatusCode::kFailedPrecondition,
                                       "1025 more were given, this model has 1024"));
  EXPECT_EQ(ReasonOf(outcome.result.status()), kReasonContextFull);
  EXPECT_THAT(Generate(Request("s", RandomIds(1024), 1)).result,
              StatusIs(StatusCode::kFailedPrecondition, "one of them for the answer"));
}

TEST_F(EngineTest, BadRequestsAreRefusedAtOnce) {
  Open("s");
  EXPECT_THAT(Append("nobody", {1}).result, StatusIs(StatusCode::kNotFound, "nobody"));
  EXPECT_THAT(Append("s", {}).result, StatusIs(StatusCode::kInvalidArgument, "no tokens"));
  EXPECT_THAT(Append("s", {61}).result,
              StatusIs(StatusCode::kInvalidArgument, "token id 61, the vocabulary has 0 to 60"));
  EXPECT_THAT(Generate(Request("s", {}, 5)).result,
              StatusIs(StatusCode::kInvalidArgument, "is empty and so is the prompt"));
  EXPECT_THAT(Generate(Request("s", {1}, 0)).result,
              StatusIs(StatusCode::kInvalidArgument, "max_new_tokens is 0"));
  GenerateRequest request = Request("s", {1}, 5);
  request.sampling.temperature = -1;
  EXPECT_THAT(Generate(request).result, StatusIs(StatusCode::kInvalidArgument, "temperature"));
  EXPECT_THAT(engine_->OpenSession({.session_id = "s"}), StatusIs(StatusCode::kAlreadyExists, "s"));
  EXPECT_THAT(engine_->OpenSession({.session_id = "t", .profile = "papr"}),
              StatusIs(StatusCode::kNotFound, "papr"));
  EXPECT_THAT(
      engine_->OpenSession({.session_id = "t", .profile = "paper-s32"}),
      StatusIs(StatusCode::kFailedPrecondition, "allowed are dense and paper-s1 to paper-s16"));
  EXPECT_THAT(engine_->OpenSession({.session_id = ""}),
              StatusIs(StatusCode::kInvalidArgument, "session id has 0 bytes"));
  EXPECT_THAT(engine_->Fork("s", "s"), StatusIs(StatusCode::kAlreadyExists, "s"));
  EXPECT_THAT(engine_->Drop("nobody"), StatusIs(StatusCode::kNotFound, "nobody"));
}

TEST_F(EngineTest, WithoutDictionariesProfilesWithoutAtomsAreServed) {
  base::Metrics metrics("worker");
  std::vector<ModelRank> model = model_;
  model[0].dictionary = nullptr;
  auto engine = Engine::Create(Defaults(), model, base::Clock::Real(), &metrics);
  ASSERT_THAT(engine, IsOk());
  EXPECT_THAT((*engine)->OpenSession({.session_id = "s"}),
              StatusIs(StatusCode::kFailedPrecondition, "use dense"));
  EXPECT_THAT((*engine)->OpenSession({.session_id = "s", .profile = "kv2r1"}),
              StatusIs(StatusCode::kFailedPrecondition, "use dense"));
  EXPECT_THAT((*engine)->OpenSession({.session_id = "s", .profile = "dense"}), IsOk());
  EXPECT_THAT((*engine)->OpenSession({.session_id = "t", .profile = "k0r2u-v0r1"}), IsOk());
  ASSERT_THAT(Append("t", RandomIds(400), engine->get()).result, IsOk());
  EXPECT_THAT(Generate(Request("t", {1}, 5), engine->get()).result, IsOk());
}

TEST_F(EngineTest, AccountsOfACallAddUp) {
  Open("s");
  const Outcome appended = Append("s", RandomIds(700));
  ASSERT_THAT(appended.result, IsOk());
  EXPECT_EQ(appended.result->usage.n_prompt_tokens, 700);
  EXPECT_EQ(appended.result->usage.n_context_tokens, 0);
  EXPECT_GT(appended.result->timing.prefill, absl::ZeroDuration());
  EXPECT_GT(appended.result->timing.coding, absl::ZeroDuration());
  EXPECT_EQ(appended.result->session.n_sealed_tokens, 544);
  EXPECT_GT(appended.result->session.mean_error.k, 0);
  ASSERT_FALSE(appended.progress.empty());
  EXPECT_EQ(appended.progress.back(), 1.0);
  EXPECT_TRUE(std::is_sorted(appended.progress.begin(), appended.progress.end()));
  const Outcome answered = Generate(Request("s", RandomIds(5), 10));
  EXPECT_EQ(answered.result->usage.n_context_tokens, 700);
  EXPECT_EQ(answered.result->usage.n_generated_tokens, 10);
  EXPECT_GT(answered.result->timing.first_token, absl::ZeroDuration());
  EXPECT_GT(answered.result->timing.decode, absl::ZeroDuration());
  EXPECT_EQ(metrics_.back()->Counter("lexico_generation_tokens_total").Value(), 10);
  EXPECT_EQ(metrics_.back()->Counter("lexico_prompt_tokens_total").Value(), 705);
  // 576 tokens are sealed by now, and the next 32 are coded ahead.
  EXPECT_EQ(metrics_.back()->Counter("lexico_coded_vectors_total", {"k"}).Value(), 608 * 2 * 3);
}

// Between two slices the other sessions decode, so a short prompt has one.
TEST_F(EngineTest, AShortPromptIsOneSliceAndALongOneIsMany) {
  Open("s");
  EXPECT_EQ(Append("s", RandomIds(10)).progress.size(), 1U);
  EXPECT_GT(Append("s", RandomIds(300)).progress.size(), 4U);
}

TEST_F(EngineTest, MemoryComesBackWhenSessionsGo) {
  for (int i = 0; i < 3; ++i) {
    Open("s" + std::to_string(i), i == 0 ? "dense" : "paper-s8");
    Generate(Request("s" + std::to_string(i), RandomIds(400), 40));
  }
  EXPECT_EQ(engine_->load().n_sessions, 3);
  EXPECT_GT(engine_->load().pool.used_bytes, 0u);
  for (int i = 0; i < 3; ++i) ASSERT_THAT(engine_->Drop("s" + std::to_string(i)), IsOk());
  const EngineLoad load = engine_->load();
  EXPECT_EQ(load.pool.used_bytes, 0u);
  EXPECT_EQ(load.pool.reserved_bytes, 0u);
  EXPECT_EQ(load.n_pages_free, load.n_pages);
}

TEST_F(EngineTest, SealedPagesReachTheSinkOnceEach) {
  EngineOptions options = Defaults();
  std::vector<store::PageKey> seen;
  options.page_sink = [&](const std::string& session, std::vector<PageExport> pages) {
    EXPECT_EQ(session, "s");
    for (const PageExport& page : pages) seen.push_back(page.header.key);
  };
  Restart(options);
  Open("s");
  Append("s", RandomIds(250));
  Generate(Request("s", RandomIds(50, 1), 100));
  const auto snapshot = engine_->Export("s", true);
  EXPECT_EQ(seen, snapshot->manifest.page_keys);
  EXPECT_FALSE(seen.empty());
}

// Weights so large that keys overflow an F16 cache.
class OverflowTest : public EngineTest {
 protected:
  static tests::TinyModelOptions Model() {
    tests::TinyModelOptions options;
    options.dtype = "float16";
    options.weight_scale = 20000;
    return options;
  }
  OverflowTest() : EngineTest(Model()) {}
};

TEST_F(OverflowTest, NonFiniteKeysEndTheCallAndLeaveTheSession) {
  Open("s");
  EXPECT_THAT(Append("s", RandomIds(20)).result, StatusIs(StatusCode::kInternal, "not finite"));
  EXPECT_EQ(engine_->Describe("s")->n_tokens, 0);
  EXPECT_FALSE(engine_->Describe("s")->busy);
  EXPECT_THAT(engine_->Drop("s"), IsOk());
  EXPECT_EQ(engine_->load().pool.used_bytes, 0u);
}

}  // namespace
}  // namespace lexico::worker

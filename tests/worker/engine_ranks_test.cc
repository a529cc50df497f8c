// An engine whose model is split over ranks answers as one that has it whole, and sessions move
// between any numbers of ranks. GPUs: 2 of them, where there are as many.
#include <algorithm>

#include "tests/worker/engine_fixture.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

struct RanksCase {
  const char* name;
  const char* profile;
  int size;
  const char* device = "cpu";
  // Of log-probabilities. On a GPU a rounding may decide which atom is picked, and a code then
  // differs as a whole.
  float rounding = 1e-3f;
};

// In F32 throughout, so that only the order of sums differs.
tests::TinyModelOptions Model() { return {.head_dim = 32, .dtype = "float32"}; }

class EngineRanksTest : public EngineTest, public testing::WithParamInterface<RanksCase> {
 protected:
  EngineRanksTest() : EngineTest(Model()) {}

  void SetUp() override {
    split_ = MakeSplit(GetParam().size);
    if (split_ == nullptr) GTEST_SKIP() << "needs " << GetParam().size << " GPUs";
    if (on_gpu()) engine_ = MakeSplit(1);
  }
  // Sessions of the test go first.
  void TearDown() override { split_.reset(); }

  static bool on_gpu() { return GetParam().device != std::string("cpu"); }
  // Null where there are not as many GPUs.
  std::unique_ptr<Engine> MakeSplit(int size, const char* device = GetParam().device) {
    const auto streams = kernels::Stream::OpenRanks(device, size, size);
    if (!streams.ok()) return nullptr;
    metrics_.push_back(std::make_unique<base::Metrics>("worker"));
    auto engine = Engine::Create(Defaults(), tests::MakeTinyModel(Model(), *streams),
                                 base::Clock::Real(), metrics_.back().get());
    EXPECT_THAT(engine, IsOk());
    return *std::move(engine);
  }
  void OpenBoth(const std::string& id) {
    Open(id, GetParam().profile);
    ASSERT_THAT(split_->OpenSession({.session_id = id, .profile = GetParam().profile}), IsOk());
  }
  // The same tokens, and log-probabilities up to the rounding of sums; up to the first place where
  // the best two tokens are so close that rounding may decide.
  static void ExpectAlike(const Outcome& whole, const Outcome& split) {
    const float rounding = GetParam().rounding;
    ASSERT_THAT(whole.result, IsOk());
    ASSERT_THAT(split.result, IsOk());
    ASSERT_EQ(whole.tokens.size(), split.tokens.size());
    for (size_t i = 0; i < whole.tokens.size(); ++i) {
      const SampledToken& a = whole.tokens[i].sampled;
      const SampledToken& b = split.tokens[i].sampled;
      if (a.id != b.id && a.top[0].logprob - a.top[1].logprob < 2 * rounding) return;
      ASSERT_EQ(a.id, b.id) << "token " << i;
      ASSERT_NEAR(a.logprob, b.logprob, rounding) << "token " << i;
    }
  }
  static void ExpectSamePages(Engine& a, Engine& b, const std::string& id) {
    const auto x = a.Export(id, true);
    const auto y = b.Export(id, true);
    ASSERT_THAT(x, IsOk());
    ASSERT_THAT(y, IsOk());
    EXPECT_EQ(x->manifest.page_keys, y->manifest.page_keys);
    EXPECT_EQ(x->manifest.window_keys, y->manifest.window_keys);
    EXPECT_EQ(Payloads(x->pages), Payloads(y->pages));
    ASSERT_EQ(x->windows.size(), y->windows.size());
    for (size_t i = 0; i < x->windows.size(); ++i) {
      EXPECT_EQ(x->windows[i].payload, y->windows[i].payload) << i;
    }
  }

  std::unique_ptr<Engine> split_;
};

TEST_P(EngineRanksTest, AnswersAreThoseOfTheWholeModel) {
  for (const int n_prompt : {1, 100, 300, 700}) {
    const std::string id = "s" + std::to_string(n_prompt);
    OpenBoth(id);
    const GenerateRequest request = Request(id, RandomIds(n_prompt), 100);
    ExpectAlike(Generate(request), Generate(request, split_.get()));
  }
}

// A short question attends to the pages directly, a long one rebuilds them.
TEST_P(EngineRanksTest, QuestionsAboutPagesAreAnsweredAlike) {
  for (const int n_question : {1, 3, 60, 300}) {
    const std::string id = "s" + std::to_string(n_question);
    OpenBoth(id);
    ASSERT_THAT(Append(id, RandomIds(400)).result, IsOk());
    ASSERT_THAT(Append(id, RandomIds(400), split_.get()).result, IsOk());
    const GenerateRequest request = Request(id, RandomIds(n_question, 9), 3);
    ExpectAlike(Generate(request), Generate(request, split_.get()));
  }
}

TEST_P(EngineRanksTest, SequencesOfOneStepAndForksAreAnsweredAlike) {
  OpenBoth("s");
  ASSERT_THAT(Append("s", RandomIds(310)).result, IsOk());
  ASSERT_THAT(Append("s", RandomIds(310), split_.get()).result, IsOk());
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 4; ++i) {
    const std::string id = "fork" + std::to_string(i);
    ASSERT_THAT(engine_->Fork("s", id), IsOk());
    ASSERT_THAT(split_->Fork("s", id), IsOk());
    calls.push_back(std::make_unique<Call>());
    ASSERT_THAT(split_->Generate(Request(id, RandomIds(4 + i, i), 60), calls[i]->callbacks()),
                IsOk());
  }
  for (int i = 0; i < 4; ++i) {
    const std::string id = "fork" + std::to_string(i);
    const Outcome together = calls[i]->Wait();
    ExpectAlike(Generate(Request(id, RandomIds(4 + i, i), 60)), together);
  }
}

TEST_P(EngineRanksTest, SessionsMoveBetweenAnyNumbersOfRanks) {
  const auto four = MakeSplit(4, "cpu");
  for (const int n_prompt : {40, 140, 317}) {
    const std::string id = "s" + std::to_string(n_prompt);
    ASSERT_THAT(split_->OpenSession({.session_id = id, .profile = GetParam().profile}), IsOk());
    ASSERT_THAT(Append(id, RandomIds(n_prompt), split_.get()).result, IsOk());
    Move(*split_, id, *engine_);
    Move(*split_, id, *four);
    ExpectSamePages(*split_, *engine_, id);
    ExpectSamePages(*split_, *four, id);
    const GenerateRequest request = Request(id, RandomIds(5, 9), 40);
    const Outcome here = Generate(request, split_.get());
    ExpectAlike(Generate(request), here);
    ExpectAlike(Generate(request, four.get()), here);
    // And from the whole model, with what was decoded there.
    ASSERT_THAT(split_->Drop(id), IsOk());
    Move(*engine_, id, *split_);
    ExpectSamePages(*engine_, *split_, id);
    const GenerateRequest more = Request(id, RandomIds(3, 2), 20);
    ExpectAlike(Generate(more), Generate(more, split_.get()));
  }
}

TEST_P(EngineRanksTest, MemoryIsCountedOnAllRanksAndComesBack) {
  OpenBoth("s");
  ASSERT_THAT(Append("s", RandomIds(300), split_.get()).result, IsOk());
  ASSERT_THAT(Append("s", RandomIds(300)).result, IsOk());
  const KvMemory split = split_->Describe("s")->memory;
  const KvMemory whole = engine_->Describe("s")->memory;
  // 2 KV heads: over 4 ranks each is there twice.
  const auto copies = static_cast<size_t>(std::max(1, GetParam().size / 2));
  EXPECT_EQ(split.window_bytes, copies * whole.window_bytes);
  EXPECT_GE(split.code_bytes, copies * whole.code_bytes);
  EXPECT_EQ(split.fp16_equivalent_bytes, whole.fp16_equivalent_bytes);
  EXPECT_EQ(split_->load().pool.total_bytes, engine_->load().pool.total_bytes);
  const auto error = split_->Describe("s")->mean_error;
  EXPECT_NEAR(error.k, engine_->Describe("s")->mean_error.k, 1e-3);
  EXPECT_NEAR(error.v, engine_->Describe("s")->mean_error.v, 1e-3);
  ASSERT_THAT(split_->Drop("s"), IsOk());
  EXPECT_EQ(split_->load().pool.used_bytes, 0u);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineRanksTest,
                         testing::Values(RanksCase{"Dense2", "dense", 2},
                                         RanksCase{"Codes2", "paper-s4", 2},
                                         RanksCase{"Dense4", "dense", 4},
                                         RanksCase{"Codes4", "paper-s4", 4},
                                         RanksCase{"DenseGpu2", "dense", 2, "cuda"},
                                         RanksCase{"Family2", "k2r2u-v4r1", 2},
                                         RanksCase{"CodesGpu2", "paper-s4", 2, "cuda", 0.3f},
                                         RanksCase{"FamilyGpu2", "k2r2u-v4r1", 2, "cuda", 0.3f},
                                         RanksCase{"DenseGpu4", "dense", 4, "cuda"}),
                         [](const auto& test) { return std::string(test.param.name); });

// Values overflow an F16 cache: every rank's own heads may be the ones that do.
class OverflowingRanksTest : public EngineTest {
 protected:
  OverflowingRanksTest() : EngineTest({.dtype = "float16"}) {}
};

TEST_F(OverflowingRanksTest, WhatIsNotFiniteEndsTheCallAndTheEngineGoesOn) {
  const std::vector<kernels::Stream> streams(2, kernels::Stream::Cpu(1));
  metrics_.push_back(std::make_unique<base::Metrics>("worker"));
  auto engine = Engine::Create(
      Defaults(), tests::MakeTinyModel({.dtype = "float16", .weight_scale = 3e4f}, streams),
      base::Clock::Real(), metrics_.back().get());
  ASSERT_THAT(engine, IsOk());
  for (const char* id : {"a", "b"}) {
    ASSERT_THAT((*engine)->OpenSession({.session_id = id, .profile = "paper-s4"}), IsOk());
    EXPECT_THAT(Append(id, RandomIds(20), engine->get()).result,
                StatusIs(StatusCode::kInternal, "is not finite as F16"));
  }
}

}  // namespace
}  // namespace lexico::worker

// The engine on a GPU gives the answers of the engine on a CPU, and sessions move between the two.
// Skipped, with the reason, where there is no GPU.
#include <algorithm>
#include <cmath>

#include "tests/worker/engine_fixture.h"

namespace lexico::worker {
namespace {

using tests::IsOk;

struct DeviceCase {
  const char* name;
  const char* profile;
  const char* dtype;
  float rounding;  // of log-probabilities: the type of the cache decides
};

class EngineDeviceTest : public EngineTest, public testing::WithParamInterface<DeviceCase> {
 protected:
  EngineDeviceTest() : EngineTest(Model()) {}
  static tests::TinyModelOptions Model() {
    return {.head_dim = 32, .max_positions = 12288, .dtype = GetParam().dtype};
  }

  void SetUp() override {
    auto stream = kernels::Stream::Open("cuda", 0);
    if (!stream.ok()) GTEST_SKIP() << stream.status();
    gpu_model_ = tests::MakeTinyModel(Model(), *stream);
    gpu_ = MakeGpuEngine(true);
    ASSERT_NE(gpu_, nullptr);
  }
  void TearDown() override {
    ops_.reset();
    gpu_.reset();
  }

  std::unique_ptr<Engine> MakeGpuEngine(bool graphs) {
    metrics_.push_back(std::make_unique<base::Metrics>("worker"));
    EngineOptions options = Defaults();
    options.decode_graphs = graphs;
    auto engine = Engine::Create(options, gpu_model_, base::Clock::Real(), metrics_.back().get());
    EXPECT_THAT(engine, IsOk());
    return engine.ok() ? *std::move(engine) : nullptr;
  }
  // Of the engine that was made `back` before the last one.
  double Steps(const char* launch, size_t back) {
    return metrics_[metrics_.size() - 1 - back]
        ->Counter("lexico_decode_steps_total", {launch})
        .Value();
  }

  void OpenBoth(const std::string& id) {
    Open(id, GetParam().profile);
    ASSERT_THAT(gpu_->OpenSession({.session_id = id, .profile = GetParam().profile}), IsOk());
  }

  // The same tokens, and log-probabilities that differ by rounding only, up to the first place
  // where the CPU's best two tokens are so close that rounding may decide.
  static void ExpectAlike(const Outcome& cpu, const Outcome& gpu) {
    const float rounding = GetParam().rounding;
    ASSERT_THAT(cpu.result, IsOk());
    ASSERT_THAT(gpu.result, IsOk());
    ASSERT_EQ(cpu.tokens.size(), gpu.tokens.size());
    for (size_t i = 0; i < cpu.tokens.size(); ++i) {
      const SampledToken& a = cpu.tokens[i].sampled;
      const SampledToken& b = gpu.tokens[i].sampled;
      if (a.id != b.id && a.top[0].logprob - a.top[1].logprob < 2 * rounding) return;
      ASSERT_EQ(a.id, b.id) << "token " << i;
      ASSERT_NEAR(a.logprob, b.logprob, rounding) << "token " << i;
    }
  }

  // Of the bytes.
  template <typename Bytes>
  static double EqualShare(const std::vector<Bytes>& a, const std::vector<Bytes>& b) {
    EXPECT_EQ(a.size(), b.size());
    int64_t equal = 0;
    int64_t all = 0;
    for (size_t page = 0; page < a.size(); ++page) {
      for (size_t i = 0; i < a[page].size(); ++i, ++all) equal += a[page][i] == b[page][i] ? 1 : 0;
    }
    return static_cast<double>(equal) / static_cast<double>(all);
  }

  std::vector<ModelRank> gpu_model_;
  std::unique_ptr<Engine> gpu_;  // with graphs
  std::unique_ptr<Engine> ops_;  // without
};

TEST_P(EngineDeviceTest, AnswersAreThoseOfACpu) {
  for (const int n_prompt : {1, 100, 300, 700}) {
    const std::string id = "s" + std::to_string(n_prompt);
    OpenBoth(id);
    const GenerateRequest request = Request(id, RandomIds(n_prompt), 100);
    ExpectAlike(Generate(request), Generate(request, gpu_.get()));
  }
}

TEST_P(EngineDeviceTest, ADemotedSessionMovesToACpu) {
  const std::string profile = GetParam().profile;
  if (profile.find("paper") != 0) GTEST_SKIP() << "only codes can be demoted";
  ASSERT_THAT(gpu_->OpenSession({.session_id = "s", .profile = profile}), IsOk());
  ASSERT_THAT(Append("s", RandomIds(2000), gpu_.get()).result, IsOk());
  const auto demoted = gpu_->Demote("s", "paper-s1");
  ASSERT_THAT(demoted, IsOk());
  EXPECT_EQ(demoted->profile, "paper-s1");
  Move(*gpu_, "s", *engine_);
  const GenerateRequest request = Request("s", RandomIds(3), 60);
  ExpectAlike(Generate(request), Generate(request, gpu_.get()));
}

// Many blocks and batches of pages, which a GPU codes beside the next blocks and layers.
TEST_P(EngineDeviceTest, LongPromptsAreReadAlike) {
  OpenBoth("s");
  ASSERT_THAT(gpu_->OpenSession({.session_id = "again", .profile = GetParam().profile}), IsOk());
  ASSERT_THAT(Append("s", RandomIds(9000)).result, IsOk());
  for (const char* id : {"s", "again"}) {
    ASSERT_THAT(Append(id, RandomIds(9000), gpu_.get()).result, IsOk());
  }
  const auto once = gpu_->Export("s", false);
  const auto again = gpu_->Export("again", false);
  ASSERT_THAT(once, IsOk());
  ASSERT_THAT(again, IsOk());
  ASSERT_TRUE(Payloads(once->pages) == Payloads(again->pages));
  if (GetParam().profile == std::string("dense")) {
    const GenerateRequest request = Request("s", RandomIds(5, 9), 20);
    return ExpectAlike(Generate(request), Generate(request, gpu_.get()));
  }
  // Thousands of codes, some of which differ as a whole, decide the answers: only the codes are
  // compared, and only those of rows that no rounding to BF16 moves.
  if (GetParam().dtype != std::string("float32")) return;
  if (GetParam().profile == std::string("k2r2u-v4r1")) return;  // residuals follow from the atoms
  const auto on_cpu = engine_->Export("s", false);
  ASSERT_THAT(on_cpu, IsOk());
  EXPECT_GT(EqualShare(Payloads(once->pages), Payloads(on_cpu->pages)), 0.9);
}

// A short question attends to the pages directly, a long one rebuilds them.
TEST_P(EngineDeviceTest, QuestionsAboutPagesAreAnsweredAlike) {
  for (const int n_question : {1, 3, 60, 300}) {
    const std::string id = "s" + std::to_string(n_question);
    OpenBoth(id);
    ASSERT_THAT(Append(id, RandomIds(400)).result, IsOk());
    ASSERT_THAT(Append(id, RandomIds(400), gpu_.get()).result, IsOk());
    const GenerateRequest request = Request(id, RandomIds(n_question, 9), 3);
    ExpectAlike(Generate(request), Generate(request, gpu_.get()));
  }
}

TEST_P(EngineDeviceTest, SessionsMoveBetweenACpuAndAGpu) {
  OpenBoth("s");
  ASSERT_THAT(Append("s", RandomIds(317)).result, IsOk());
  ASSERT_THAT(gpu_->Drop("s"), IsOk());
  Move(*engine_, "s", *gpu_);
  const GenerateRequest request = Request("s", RandomIds(5, 9), 40);
  ExpectAlike(Generate(request), Generate(request, gpu_.get()));
  // And back: the pages are the same bytes as on the GPU.
  ASSERT_THAT(engine_->Drop("s"), IsOk());
  Move(*gpu_, "s", *engine_);
  const auto on_cpu = engine_->Export("s", true);
  const auto on_gpu = gpu_->Export("s", true);
  ASSERT_TRUE(Payloads(on_cpu->pages) == Payloads(on_gpu->pages));
}

TEST_P(EngineDeviceTest, ARestoredSessionContinuesBitForBit) {
  ASSERT_THAT(gpu_->OpenSession({.session_id = "s", .profile = GetParam().profile}), IsOk());
  ASSERT_THAT(Append("s", RandomIds(300), gpu_.get()).result, IsOk());
  ASSERT_THAT(gpu_->Fork("s", "fork"), IsOk());
  auto snapshot = gpu_->Export("s", true);
  ASSERT_THAT(snapshot, IsOk());
  ASSERT_THAT(gpu_->Drop("s"), IsOk());
  ASSERT_THAT(gpu_->Fork("fork", "s"), IsOk());
  const Outcome a = Generate(Request("s", RandomIds(5, 9), 64), gpu_.get());
  const Outcome b = Generate(Request("fork", RandomIds(5, 9), 64), gpu_.get());
  ASSERT_THAT(a.result, IsOk());
  ExpectSameTokens(a, b);
}

TEST_P(EngineDeviceTest, SequencesOfOneStepDoNotDisturbEachOther) {
  constexpr int kSequences = 5;
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < kSequences; ++i) {
    const std::string id = "s" + std::to_string(i);
    OpenBoth(id);
    ASSERT_THAT(Append(id, RandomIds(100 + 90 * i, i), gpu_.get()).result, IsOk());
    ASSERT_THAT(Append(id, RandomIds(100 + 90 * i, i)).result, IsOk());
  }
  for (int i = 0; i < kSequences; ++i) {
    calls.push_back(std::make_unique<Call>());
    const auto started = gpu_->Generate(Request("s" + std::to_string(i), RandomIds(4, i), 80),
                                        calls.back()->callbacks());
    ASSERT_THAT(started, IsOk());
  }
  for (int i = 0; i < kSequences; ++i) {
    const Outcome together = calls[i]->Wait();
    ExpectAlike(Generate(Request("s" + std::to_string(i), RandomIds(4, i), 80)), together);
  }
}

// The same calls in an engine that replays steps and in one that never does, to the same bits:
// windows that fill, places of pages that fill, sessions that come and go, calls of several
// profiles and numbers of best logits in one step.
TEST_P(EngineDeviceTest, ReplayedStepsAreThoseOfOps) {
  ops_ = MakeGpuEngine(false);
  std::vector<Outcome> outcomes[2];
  for (int i = 0; i < 2; ++i) {
    Engine& engine = i == 0 ? *gpu_ : *ops_;
    const auto open = [&](const std::string& id, const char* profile, int n_tokens) {
      ASSERT_THAT(engine.OpenSession({.session_id = id, .profile = profile}), IsOk());
      ASSERT_THAT(Append(id, RandomIds(n_tokens, n_tokens), &engine).result, IsOk());
    };
    open("a", GetParam().profile, 260);
    open("b", GetParam().profile, 500);
    open("c", "dense", 130);
    // Alone, through several pages.
    outcomes[i].push_back(Generate(Request("a", RandomIds(3), 150), &engine));
    // Others come in the middle and leave before the end; their profiles and best logits differ.
    Call first;
    first.HoldAt(20);
    ASSERT_THAT(engine.Generate(Request("a", RandomIds(3), 120), first.callbacks()), IsOk());
    first.WaitForTokens();
    Call second;
    Call third;
    GenerateRequest request = Request("b", RandomIds(2), 60);
    request.sampling.n_logprobs = 0;
    ASSERT_THAT(engine.Generate(request, second.callbacks()), IsOk());
    request = Request("c", RandomIds(2), 30);
    request.sampling.n_logprobs = 7;
    ASSERT_THAT(engine.Generate(request, third.callbacks()), IsOk());
    first.Resume();
    for (Call* call : {&first, &second, &third}) outcomes[i].push_back(call->Wait());
    ASSERT_THAT(engine.Drop("b"), IsOk());
    outcomes[i].push_back(Generate(Request("c", RandomIds(3), 40), &engine));
  }
  for (size_t i = 0; i < outcomes[0].size(); ++i) {
    ASSERT_THAT(outcomes[0][i].result, IsOk());
    ASSERT_THAT(outcomes[1][i].result, IsOk());
    ExpectSameTokens(outcomes[0][i], outcomes[1][i]);
  }
  EXPECT_GT(Steps("replayed", 1), 150);
  EXPECT_GT(Steps("recorded", 1), 2);
  EXPECT_EQ(Steps("replayed", 0) + Steps("recorded", 0), 0);
  EXPECT_GT(Steps("ops", 0), 300);
}

INSTANTIATE_TEST_SUITE_P(
    Models, EngineDeviceTest,
    // Where a rounding decides which atom is picked, a code differs as a whole: with a random
    // dictionary of 64 atoms that happens, and with a cache of BF16 often, hence the wide bounds.
    testing::Values(DeviceCase{"DenseF32", "dense", "float32", 1e-3f},
                    DeviceCase{"DenseF16", "dense", "float16", 0.05f},
                    DeviceCase{"DenseBf16", "dense", "bfloat16", 0.25f},
                    DeviceCase{"CodesF32", "paper-s8", "float32", 0.3f},
                    DeviceCase{"CodesBf16", "paper-s8", "bfloat16", 1.0f},
                    DeviceCase{"FamilyF32", "k2r2u-v4r1", "float32", 0.3f},
                    DeviceCase{"PackedBf16", "kv8", "bfloat16", 1.0f},
                    // No atoms, so nothing is picked: only levels and scales may be rounded apart.
                    DeviceCase{"ResidualF32", "kv0r3u", "float32", 0.1f}),
    [](const auto& parameter) { return std::string(parameter.param.name); });

}  // namespace
}  // namespace lexico::worker

// An engine over a tiny random model, and blocking forms of its calls.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "proto/base/bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/carry_pages.h"
#include "tests/worker/tiny_model.h"
#include "worker/engine/engine.h"
#include "worker/engine/errors.h"

namespace lexico::worker {

// A call that has ended.
struct Outcome {
  absl::StatusOr<CallResult> result = absl::UnknownError("not finished");
  CallUsage started;
  std::vector<double> progress;
  std::vector<GeneratedToken> tokens;

  std::vector<int32_t> ids() const {
    std::vector<int32_t> ids;
    for (const GeneratedToken& token : tokens) ids.push_back(token.sampled.id);
    return ids;
  }
};

// A call underway. Wait() before it goes away.
class Call {
 public:
  CallCallbacks callbacks() {
    return {.on_started = [this](const CallUsage& usage) { outcome_.started = usage; },
            .on_progress =
                [this](double fraction) {
                  outcome_.progress.push_back(fraction);
                  if (outcome_.progress.size() > 1) return;
                  slice_.Notify();
                  if (hold_at_slice_) resume_.WaitForNotification();
                },
            .on_token =
                [this](const GeneratedToken& token) {
                  outcome_.tokens.push_back(token);
                  if (outcome_.tokens.size() == hold_at_) {
                    tokens_.Notify();
                    resume_.WaitForNotification();
                  }
                  return outcome_.tokens.size() == stop_at_ ? TokenVerdict::kStopString
                                                            : TokenVerdict::kContinue;
                },
            .on_finished =
                [this](absl::StatusOr<CallResult> result) {
                  outcome_.result = std::move(result);
                  finished_.Notify();
                }};
  }
  void StopAt(size_t n_tokens) { stop_at_ = n_tokens; }
  // The engine stands still behind that token, or behind the first slice, until Resume(): what the
  // test does meanwhile happens in the middle of the call, however slow the machine is.
  void HoldAt(size_t n_tokens) { hold_at_ = n_tokens; }
  void HoldAtSlice() { hold_at_slice_ = true; }
  void WaitForTokens() { tokens_.WaitForNotification(); }
  void WaitForSlice() { slice_.WaitForNotification(); }
  void Resume() { resume_.Notify(); }
  // From the engine's thread.
  size_t n_tokens() const { return outcome_.tokens.size(); }
  Outcome Wait() {
    finished_.WaitForNotification();
    return outcome_;
  }

 private:
  Outcome outcome_;
  size_t stop_at_ = 0;
  size_t hold_at_ = 0;
  bool hold_at_slice_ = false;
  absl::Notification tokens_;
  absl::Notification slice_;
  absl::Notification resume_;
  absl::Notification finished_;
};

class EngineTest : public testing::Test {
 protected:
  explicit EngineTest(tests::TinyModelOptions model = {})
      : stream_(kernels::Stream::Cpu(1)), model_(tests::MakeTinyModel(model, stream_)) {
    Restart({});
  }

  static EngineOptions Defaults() {
    EngineOptions options;
    options.kv_memory_bytes = size_t{64} << 20;
    return options;
  }
  void Restart(std::optional<EngineOptions> options) { engine_ = MakeEngine(options); }
  std::unique_ptr<Engine> MakeEngine(std::optional<EngineOptions> options) {
    metrics_.push_back(std::make_unique<base::Metrics>("worker"));
    auto engine = Engine::Create(options.value_or(Defaults()), model_, base::Clock::Real(),
                                 metrics_.back().get());
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  static std::vector<int32_t> RandomIds(int n, uint64_t seed = 5) {
    std::mt19937_64 random(seed);
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(2 + random() % 59);
    return ids;
  }
  void Open(const std::string& id, const std::string& profile = "paper-s4") {
    ASSERT_THAT(engine_->OpenSession({.session_id = id, .profile = profile}), tests::IsOk());
  }
  Outcome Append(const std::string& id, std::vector<int32_t> ids, Engine* engine = nullptr) {
    Call call;
    const auto started = (engine ? engine : engine_.get())
                             ->Append({.session_id = id, .ids = std::move(ids)}, call.callbacks());
    if (!started.ok()) return {.result = started.status()};
    return call.Wait();
  }
  // Greedy, with log-probabilities, so that equal outcomes mean equal distributions.
  static GenerateRequest Request(const std::string& id, std::vector<int32_t> prompt, int n_new) {
    GenerateRequest request;
    request.session_id = id;
    request.prompt_ids = std::move(prompt);
    request.max_new_tokens = n_new;
    request.sampling.n_logprobs = 3;
    return request;
  }
  Outcome Generate(GenerateRequest request, Engine* engine = nullptr) {
    Call call;
    const auto started =
        (engine ? engine : engine_.get())->Generate(std::move(request), call.callbacks());
    if (!started.ok()) return {.result = started.status()};
    return call.Wait();
  }
  // Ids and the bits of every log-probability.
  static void ExpectSameTokens(const Outcome& a, const Outcome& b) {
    ASSERT_EQ(a.ids(), b.ids());
    for (size_t i = 0; i < a.tokens.size(); ++i) {
      const SampledToken& x = a.tokens[i].sampled;
      const SampledToken& y = b.tokens[i].sampled;
      ASSERT_EQ(0, std::memcmp(&x.logprob, &y.logprob, sizeof(float))) << "token " << i;
      for (size_t j = 0; j < x.top.size(); ++j) {
        ASSERT_EQ(0, std::memcmp(&x.top[j].logprob, &y.top[j].logprob, sizeof(float)));
      }
    }
  }
  // Moves a session through the bytes of its pages, as the store would carry them.
  static void Move(Engine& from, const std::string& id, Engine& to) {
    auto snapshot = from.Export(id, true);
    ASSERT_THAT(snapshot, tests::IsOk());
    store::Manifest manifest = snapshot->manifest;
    manifest.session_id = id;
    const auto bytes = store::EncodeManifest(manifest);
    ASSERT_THAT(bytes, tests::IsOk());
    const auto decoded = store::DecodeManifest(base::AsBytes(*bytes));
    ASSERT_THAT(decoded, tests::IsOk());
    auto import = to.BeginImport(*decoded);
    ASSERT_THAT(import, tests::IsOk());
    ASSERT_THAT(Carry(*snapshot, **import), tests::IsOk());
    ASSERT_THAT(to.FinishImport(id, *std::move(import)), tests::IsOk());
  }

  kernels::Stream stream_;
  std::vector<ModelRank> model_;
  std::vector<std::unique_ptr<base::Metrics>> metrics_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace lexico::worker

// Sampling: the filters mean what they mean in transformers, and the draw depends on nothing but
// seed and position.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "kernels/api/top_logits.h"
#include "tests/support/status_matchers.h"
#include "worker/model/sampler.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Logits whose softmax is these probabilities.
std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

class SamplerTest : public testing::Test {
 protected:
  // Which ids come out of n draws at different positions, and how often.
  std::map<int32_t, int> Draws(const SamplingParams& params, const std::vector<float>& logits,
                               int n = 4000, std::vector<int32_t> history = {}) {
    std::map<int32_t, int> counts;
    for (int position = 0; position < n; ++position) {
      const auto token = sampler_.Sample(params, logits, history, position);
      EXPECT_THAT(token, IsOk());
      ++counts[token->id];
    }
    return counts;
  }
  std::set<int32_t> Support(const SamplingParams& params, const std::vector<float>& logits,
                            std::vector<int32_t> history = {}) {
    std::set<int32_t> ids;
    for (const auto& [id, count] : Draws(params, logits, 4000, std::move(history))) ids.insert(id);
    return ids;
  }
  int32_t Greedy(const std::vector<float>& logits, SamplingParams params = {},
                 std::vector<int32_t> history = {}) {
    return sampler_.Sample(params, logits, history, 0)->id;
  }

  const std::vector<float> logits_ = LogitsOf({0.1, 0.4, 0.05, 0.25, 0.2});
  Sampler sampler_;
};

TEST_F(SamplerTest, TemperatureZeroTakesTheLargestAndTheSmallerIdOfEquals) {
  EXPECT_EQ(Greedy({1, 3, 2}), 1);
  EXPECT_EQ(Greedy({1, 3, 3}), 1);
  EXPECT_EQ(Greedy({-kInf, -5, -kInf}), 1);
  EXPECT_EQ(Greedy({7}), 0);
}

TEST_F(SamplerTest, FrequenciesFollowTheProbabilities) {
  SamplingParams params{.temperature = 1};
  const int n = 40000;
  const auto counts = Draws(params, logits_, n);
  const double expected[] = {0.1, 0.4, 0.05, 0.25, 0.2};
  for (int32_t id = 0; id < 5; ++id) {
    // Five standard deviations of a binomial.
    const double p = expected[id];
    EXPECT_NEAR(counts.at(id), n * p, 5 * std::sqrt(n * p * (1 - p))) << "id " << id;
  }
}

TEST_F(SamplerTest, TemperatureSharpensAndFlattens) {
  // At temperature 0.5 probabilities are squared: 0.4^2 / sum of squares = 0.16 / 0.275.
  SamplingParams params{.temperature = 0.5};
  EXPECT_NEAR(Draws(params, logits_, 40000)[1], 40000 * 0.16 / 0.275, 500);
  params.temperature = 1e-300;
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1}));
}

TEST_F(SamplerTest, TopKKeepsTheLargestAndAllEqualToTheLast) {
  SamplingParams params{.temperature = 1, .top_k = 2};
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(Support(params, {2, 1, 2, 2, 0}), (std::set<int32_t>{0, 2, 3}));
  params.top_k = 1;
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1}));
  params.top_k = 100;
  EXPECT_EQ(Support(params, logits_).size(), 5u);
}

TEST_F(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  SamplingParams params{.temperature = 1, .top_p = 0.6};
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1, 3}));
  params.top_p = 0.7;
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1, 3, 4}));
  params.top_p = 1e-9;
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1}));
  // Of what top-k left: 0.4 / 0.65 is beyond 0.6 already.
  params.top_k = 2;
  params.top_p = 0.6;
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1}));
}

TEST_F(SamplerTest, MinPKeepsTokensCloseToTheBest) {
  SamplingParams params{.temperature = 1, .min_p = 0.45};
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1, 3, 4}));
  params.min_p = 1;
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1}));
  // Temperature comes first: at 2 the ratio 0.25 becomes 0.5.
  params.min_p = 0.45;
  params.temperature = 2;
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{0, 1, 3, 4}));
}

TEST_F(SamplerTest, TopPIsReckonedBeforeMinPRemovesTokens) {
  // Of all tokens 0.4 + 0.25 do not reach 0.7; of the three that min-p leaves they would.
  const SamplingParams params{.temperature = 1, .top_p = 0.7, .min_p = 0.45};
  EXPECT_EQ(Support(params, logits_), (std::set<int32_t>{1, 3, 4}));
}

TEST_F(SamplerTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeOnce) {
  const SamplingParams params{.repetition_penalty = 2};
  EXPECT_EQ(Greedy({4, 3}, params, {0}), 1);
  EXPECT_EQ(Greedy({-2, -3}, params, {0}), 1);
  EXPECT_EQ(Greedy({6.5, 3}, params, {0}), 0);
  // Twice in the history is not punished twice: 8 / 2 = 4.
  EXPECT_EQ(Greedy({8, 3}, params, {0, 0}), 0);
  EXPECT_EQ(Greedy({4, 3}, params, {}), 0);
  EXPECT_EQ(Greedy({3e38f, 1}, {.repetition_penalty = 0.01}, {0}), 0);
}

TEST_F(SamplerTest, PenaltyOfOneCallDoesNotReachTheNext) {
  EXPECT_EQ(Greedy({4, 3}, {.repetition_penalty = 2}, {0}), 1);
  EXPECT_EQ(Greedy({4, 3}, {.repetition_penalty = 2}, {1}), 0);
}

TEST_F(SamplerTest, TheSameSeedAndPositionGiveTheSameTokenInAnyOrder) {
  const SamplingParams params{.temperature = 1, .seed = 42};
  std::vector<int32_t> forward, backward(50);
  Sampler other;
  for (int i = 0; i < 50; ++i) forward.push_back(sampler_.Sample(params, logits_, {}, i)->id);
  for (int i = 49; i >= 0; --i) backward[i] = other.Sample(params, logits_, {}, i)->id;
  EXPECT_EQ(forward, backward);
  SamplingParams other_seed = params;
  other_seed.seed = 43;
  std::vector<int32_t> different;
  for (int i = 0; i < 50; ++i) different.push_back(other.Sample(other_seed, logits_, {}, i)->id);
  EXPECT_NE(forward, different);
}

TEST_F(SamplerTest, UniformIsFixedForEver) {
  // A session that was stored by one version continues under the next: these may never change.
  // Made with Python's integers from the published constants.
  EXPECT_EQ(UniformAt(0, 0), 0x1.4e0dba5e9a32fp-1);
  EXPECT_EQ(UniformAt(1, 2), 0x1.79b3b7692ce60p-1);
  EXPECT_EQ(UniformAt(42, 20000), 0x1.6c8205c7f9483p-1);
  double sum = 0;
  for (int i = 0; i < 10000; ++i) {
    const double u = UniformAt(7, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 5 * std::sqrt(1.0 / 12 / 10000));
}

TEST_F(SamplerTest, LogprobsAreTheModelsOwnBeforeAnyFilter) {
  const SamplingParams params{
      .temperature = 0.3, .top_k = 1, .repetition_penalty = 1.5, .n_logprobs = 3};
  const auto token = sampler_.Sample(params, logits_, std::vector<int32_t>{3}, 0);
  ASSERT_THAT(token, IsOk());
  EXPECT_EQ(token->id, 1);
  EXPECT_NEAR(token->logprob, std::log(0.4), 1e-6);
  ASSERT_EQ(token->top.size(), 3u);
  EXPECT_EQ(token->top[0].id, 1);
  EXPECT_EQ(token->top[1].id, 3);
  EXPECT_EQ(token->top[2].id, 4);
  EXPECT_NEAR(token->top[1].logprob, std::log(0.25), 1e-6);
}

TEST_F(SamplerTest, LogprobsComeOnlyWhenAskedForAndNeverMoreThanTheVocabulary) {
  EXPECT_TRUE(sampler_.Sample({}, logits_, {}, 0)->top.empty());
  EXPECT_EQ(sampler_.Sample({}, logits_, {}, 0)->logprob, 0);
  const auto chosen_only = sampler_.Sample({.n_logprobs = 0}, logits_, {}, 0);
  EXPECT_TRUE(chosen_only->top.empty());
  EXPECT_NEAR(chosen_only->logprob, std::log(0.4), 1e-6);
  const auto all = sampler_.Sample({.n_logprobs = 20}, logits_, {}, 0);
  EXPECT_EQ(all->top.size(), 5u);
  // Equal logits: the smaller id first.
  const auto equal = sampler_.Sample({.n_logprobs = 2}, std::vector<float>{1, 1, 1}, {}, 0);
  EXPECT_EQ(equal->top[0].id, 0);
  EXPECT_EQ(equal->top[1].id, 1);
}

TEST_F(SamplerTest, NotANumberIsInternalForEveryMode) {
  for (const double temperature : {0.0, 1.0}) {
    const SamplingParams params{.temperature = temperature};
    const auto sample = [&](std::vector<float> logits) {
      return sampler_.Sample(params, logits, {}, 0).status();
    };
    EXPECT_THAT(sample({1, kNan, 2}), StatusIs(StatusCode::kInternal, "logit of token 1 is nan"));
    EXPECT_THAT(sample({1, 2, kInf}), StatusIs(StatusCode::kInternal, "logit of token 2 is inf"));
    EXPECT_THAT(sample({-kInf, -kInf}), StatusIs(StatusCode::kInternal, "none of 2 logits"));
  }
}

TEST_F(SamplerTest, MinusInfinityIsNeverDrawn) {
  EXPECT_EQ(Support({.temperature = 100}, {-kInf, 0, -kInf, 0}), (std::set<int32_t>{1, 3}));
}

// SampleTop chooses what Sample chooses, or says that it cannot know.
class SampleTopTest : public testing::Test {
 protected:
  // Few values, so that many are equal.
  std::vector<float> RandomLogits(int n) {
    std::vector<float> logits(n);
    for (float& logit : logits) logit = std::round(normal_(random_) * 16) / 8;
    return logits;
  }

  absl::StatusOr<std::optional<SampledToken>> Top(const SamplingParams& params,
                                                  const std::vector<float>& logits,
                                                  int64_t position) {
    const int n_top = Sampler::TopNeeded(params);
    const kernels::RowDraw draw = Sampler::DrawOf(params, position);
    std::vector<float> top(n_top);
    std::vector<int32_t> ids(n_top);
    kernels::RowSummary summary;
    kernels::TopLogits({.logits = logits.data(),
                        .n_rows = 1,
                        .n_vocab = std::ssize(logits),
                        .n_top = n_top,
                        .top = top.data(),
                        .top_ids = ids.data(),
                        .draws = &draw,
                        .summaries = &summary},
                       kernels::Stream::Cpu(1));
    return sampler_.SampleTop(
        params, {.logits = top, .ids = ids, .summary = summary, .n_vocab = std::ssize(logits)},
        position);
  }

  // How many of 200 draws SampleTop made.
  int ExpectTheSame(const SamplingParams& params, int n_vocab) {
    int n_known = 0;
    for (int64_t position = 0; position < 200; ++position) {
      const std::vector<float> logits = RandomLogits(n_vocab);
      const auto expected = sampler_.Sample(params, logits, {}, position);
      const auto token = Top(params, logits, position);
      EXPECT_THAT(expected, IsOk());
      EXPECT_THAT(token, IsOk());
      if (!token->has_value()) continue;
      ++n_known;
      EXPECT_EQ((*token)->id, expected->id) << "position " << position;
      EXPECT_NEAR((*token)->logprob, expected->logprob, 1e-6);
      EXPECT_EQ((*token)->top.size(), expected->top.size());
      for (size_t i = 0; i < expected->top.size(); ++i) {
        EXPECT_EQ((*token)->top[i].id, expected->top[i].id);
        EXPECT_NEAR((*token)->top[i].logprob, expected->top[i].logprob, 1e-6);
      }
    }
    return n_known;
  }

  std::mt19937 random_{5};
  std::normal_distribution<float> normal_;
  Sampler sampler_;
};

TEST_F(SampleTopTest, GreedyAndPureTemperatureNeverNeedTheRest) {
  EXPECT_EQ(ExpectTheSame({}, 1000), 200);
  EXPECT_EQ(ExpectTheSame({.n_logprobs = 0}, 1000), 200);
  EXPECT_EQ(ExpectTheSame({.n_logprobs = 20}, 1000), 200);
  EXPECT_EQ(ExpectTheSame({.temperature = 1, .seed = 3}, 1000), 200);
  EXPECT_EQ(ExpectTheSame({.temperature = 0.3, .seed = 4, .n_logprobs = 5}, 1000), 200);
}

TEST_F(SampleTopTest, FiltersThatEndAmongTheKnownNeedNoOthers) {
  EXPECT_GT(ExpectTheSame({.temperature = 1, .top_k = 20, .seed = 5}, 1000), 150);
  EXPECT_GT(ExpectTheSame({.temperature = 0.1, .top_p = 0.5, .seed = 6}, 1000), 150);
  EXPECT_GT(ExpectTheSame({.temperature = 0.2, .min_p = 0.3, .seed = 7}, 1000), 150);
  EXPECT_GT(ExpectTheSame({.temperature = 1, .top_k = 30, .top_p = 0.8, .min_p = 0.2}, 1000), 150);
}

TEST_F(SampleTopTest, AVocabularyThatIsKnownWholeNeedsNothing) {
  EXPECT_EQ(ExpectTheSame({.temperature = 2, .top_p = 0.95, .seed = 8}, 50), 200);
  EXPECT_EQ(ExpectTheSame({.temperature = 2, .top_k = 60, .min_p = 0.01, .seed = 9}, 50), 200);
  EXPECT_EQ(ExpectTheSame({.temperature = 2, .top_k = 10, .seed = 9, .n_logprobs = 20}, 10), 200);
}

TEST_F(SampleTopTest, FiltersThatLeaveOthersSaySo) {
  EXPECT_EQ(ExpectTheSame({.temperature = 50, .top_p = 0.99}, 1000), 0);
  EXPECT_EQ(ExpectTheSame({.temperature = 50, .min_p = 0.01}, 1000), 0);
  EXPECT_EQ(ExpectTheSame({.temperature = 1, .top_k = 64}, 1000), 0);
  EXPECT_EQ(ExpectTheSame({.temperature = 0, .repetition_penalty = 1.1}, 1000), 0);
  // All equal: none of them is the last that is kept.
  const auto token = Top({.temperature = 1, .top_k = 3}, std::vector<float>(1000, 1.0F), 0);
  EXPECT_THAT(token, IsOk());
  EXPECT_FALSE(token->has_value());
}

TEST_F(SampleTopTest, WhatNoTokenFollowsFromIsRefusedOrLeftToTheRow) {
  std::vector<float> logits(100, -kInf);
  EXPECT_THAT(Top({}, logits, 0), StatusIs(StatusCode::kInternal, "none of 100 logits"));
  logits[70] = kNan;
  const auto token = Top({.temperature = 1}, logits, 0);
  EXPECT_THAT(token, IsOk());
  EXPECT_FALSE(token->has_value());
}

TEST(SamplingParamsTest, DefaultsAndLimitsAreValid) {
  EXPECT_THAT(SamplingParams{}.Validate(), IsOk());
  const SamplingParams largest{.temperature = 100,
                               .top_k = 1 << 30,
                               .top_p = 1,
                               .min_p = 1,
                               .repetition_penalty = 100,
                               .n_logprobs = 20};
  EXPECT_THAT(largest.Validate(), IsOk());
}

TEST(SamplingParamsTest, RefusesValuesOutsideTheirRangeByName) {
  const auto expect_refused = [](const SamplingParams& params, const std::string& message) {
    EXPECT_THAT(params.Validate(), StatusIs(StatusCode::kInvalidArgument, message));
  };
  expect_refused({.temperature = -0.1}, "temperature is -0.1, must be in 0 .. 100");
  expect_refused({.temperature = 101}, "temperature is 101");
  expect_refused({.temperature = kNan}, "temperature is nan");
  expect_refused({.top_k = -1}, "top_k is -1");
  expect_refused({.top_p = 0}, "top_p is 0, must be in (0, 1]");
  expect_refused({.top_p = 1.1}, "top_p is 1.1");
  expect_refused({.top_p = kNan}, "top_p is nan");
  expect_refused({.min_p = -0.5}, "min_p is -0.5");
  expect_refused({.min_p = kInf}, "min_p is inf");
  expect_refused({.repetition_penalty = 0}, "repetition_penalty is 0");
  expect_refused({.repetition_penalty = kNan}, "repetition_penalty is nan");
  expect_refused({.n_logprobs = 21}, "logprobs is 21");
  expect_refused({.n_logprobs = -2}, "logprobs is -2");
}

}  // namespace
}  // namespace lexico::worker

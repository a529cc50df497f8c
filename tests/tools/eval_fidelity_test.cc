// The measurement of lexico-eval fidelity on a tiny random model: exact is exact, more bytes are
// nearer, what cannot be measured is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/support/status_matchers.h"
#include "tests/worker/tiny_model.h"
#include "tools/eval/fidelity/divergence.h"
#include "tools/eval/fidelity/fidelity.h"
#include "tools/eval/fidelity/fidelity_report.h"
#include "tools/eval/fidelity/profile_decoder.h"
#include "tools/eval/fidelity/rows_decoder.h"
#include "worker/model/exact_decoder.h"

namespace lexico::eval {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

class FidelityTest : public testing::Test {
 protected:
  FidelityTest()
      : stream_(kernels::Stream::Cpu(1)), model_(tests::MakeTinyModel({}, stream_).at(0)) {}

  static std::vector<int32_t> RandomIds(int64_t n) {
    std::mt19937_64 random(3);
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % 61);
    return ids;
  }
  static FidelityOptions Options(const std::vector<std::string>& profiles,
                                 const std::vector<std::string>& rivals) {
    FidelityOptions options;
    options.n_tokens = 300;
    options.n_continuation = 20;
    for (const std::string& name : profiles) {
      auto profile = ParseMeasuredProfile(name);
      EXPECT_THAT(profile, tests::IsOk());
      options.profiles.push_back(*std::move(profile));
    }
    for (const std::string& name : rivals) {
      const int budgets[] = {8};
      auto parsed = ParseRival(name, budgets);
      EXPECT_THAT(parsed, tests::IsOk());
      options.rivals.push_back(std::move(parsed->at(0)));
    }
    return options;
  }
  absl::StatusOr<FidelityReport> Measure(const FidelityOptions& options, int64_t n_ids = 700,
                                         bool with_dictionary = true) {
    const std::vector<int32_t> ids = RandomIds(n_ids);
    worker::ModelRank model = model_;
    if (!with_dictionary) model.dictionary = nullptr;
    return MeasureFidelity(options, model, ids,
                           [this](const std::string& line) { progress_.push_back(line); });
  }

  kernels::Stream stream_;
  worker::ModelRank model_;
  std::vector<std::string> progress_;
};

TEST_F(FidelityTest, DenseAgainstDenseIsTheSameDistribution) {
  const auto report = Measure(Options({"dense"}, {}), 700, false);
  ASSERT_THAT(report, tests::IsOk());
  ASSERT_THAT(report->rows, SizeIs(1));
  const FidelityRow& row = report->rows[0];
  EXPECT_EQ(row.kl, 0);
  EXPECT_EQ(row.kl_error, 0);
  EXPECT_EQ(row.top1, 1);
  EXPECT_EQ(row.perplexity, report->perplexity_exact);
  EXPECT_EQ(row.bytes_per_vector, 32);
  EXPECT_EQ(row.fraction_with_window, 1);
  EXPECT_EQ(report->n_compared, 40);
}

TEST_F(FidelityTest, ExactRowsDifferFromTheEngineByRoundingOnly) {
  const auto report = Measure(Options({}, {"exact"}));
  ASSERT_THAT(report, tests::IsOk());
  // Other sums, so F32 epsilons in logits; rows that round to the other BF16 neighbour.
  EXPECT_LT(report->rows[0].kl, 1e-4);
  EXPECT_NEAR(report->rows[0].perplexity / report->perplexity_exact, 1, 0.01);
}

TEST_F(FidelityTest, MoreBytesAreNearer) {
  const auto report = Measure(Options({"paper-s1", "paper-s4", "paper-s16"},
                                      {"token-2", "token-4", "rotate-1", "rotate-3"}));
  ASSERT_THAT(report, tests::IsOk());
  const std::vector<FidelityRow>& rows = report->rows;
  for (const auto& [more, less] : {std::pair{1, 0}, {2, 1}, {4, 3}, {6, 5}}) {
    EXPECT_GT(rows[more].bytes_per_vector, rows[less].bytes_per_vector);
    EXPECT_LT(rows[more].kl, rows[less].kl) << rows[more].name;
    for (int layer = 0; layer < 3; ++layer) {
      EXPECT_LT(rows[more].error_k[layer], rows[less].error_k[layer]) << rows[more].name;
      EXPECT_LT(rows[more].error_v[layer], rows[less].error_v[layer]) << rows[more].name;
    }
  }
  EXPECT_EQ(rows[1].name, "paper-s4");
  EXPECT_FALSE(rows[1].is_rival);
  EXPECT_EQ(rows[1].bytes_per_vector, 12);
  EXPECT_EQ(rows[1].fraction_of_fp16, 12.0 / 32);
  // 160 of 300 tokens are coded, 140 stay exact.
  EXPECT_DOUBLE_EQ(rows[1].fraction_with_window, (160 * 12.0 / 32 + 140) / 300);
  EXPECT_TRUE(rows[3].is_rival);
}

TEST_F(FidelityTest, MembersOfTheFamilyAreMeasuredAtTheirBytes) {
  const auto report = Measure(Options({"kv4", "kv4r1", "kv4r3u", "k0r3u-v0r1"}, {}));
  ASSERT_THAT(report, tests::IsOk());
  const std::vector<FidelityRow>& rows = report->rows;
  EXPECT_EQ(rows[0].bytes_per_vector, 10);
  EXPECT_EQ(rows[1].bytes_per_vector, 14);
  EXPECT_EQ(rows[2].bytes_per_vector, 18);
  EXPECT_EQ(rows[3].bytes_per_vector, (8 + 4) / 2.0);
  EXPECT_LT(rows[1].kl, rows[0].kl);
  EXPECT_LT(rows[2].kl, rows[1].kl);
  for (int layer = 0; layer < 3; ++layer) {
    EXPECT_LT(rows[2].error_k[layer], rows[1].error_k[layer]);
    EXPECT_LT(rows[3].error_k[layer], rows[3].error_v[layer]);
  }
}

TEST_F(FidelityTest, ADemotionIsMeasuredAtItsBytes) {
  const auto report = Measure(Options({"paper-s4", "paper-s8:paper-s4", "paper-s8:paper-s1"}, {}));
  ASSERT_THAT(report, tests::IsOk());
  const std::vector<FidelityRow>& rows = report->rows;
  EXPECT_EQ(rows[1].name, "paper-s8:paper-s4");
  EXPECT_EQ(rows[1].bytes_per_vector, rows[0].bytes_per_vector);
  EXPECT_EQ(rows[2].bytes_per_vector, 3);
  EXPECT_NEAR(rows[1].kl, rows[0].kl, rows[0].kl * 0.3);
  EXPECT_GT(rows[2].kl, rows[1].kl);
  for (int layer = 0; layer < 3; ++layer) {
    EXPECT_NEAR(rows[1].error_k[layer], rows[0].error_k[layer], rows[0].error_k[layer] * 0.1);
  }
}

TEST_F(FidelityTest, WhatIsNoDemotionIsRefusedByName) {
  EXPECT_THAT(ParseMeasuredProfile("paper-s4:paper-s8"),
              tests::StatusIs(absl::StatusCode::kFailedPrecondition, "paper-s4:paper-s8"));
  EXPECT_THAT(ParseMeasuredProfile("paper-s4:"),
              tests::StatusIs(absl::StatusCode::kFailedPrecondition, "paper-s4:"));
  EXPECT_THAT(ParseMeasuredProfile("paper:paper-s4"),
              tests::StatusIs(absl::StatusCode::kNotFound, "no profile 'paper'"));
}

TEST_F(FidelityTest, EvictionsHaveNoErrorOfVectors) {
  const auto report = Measure(Options({}, {"snapkv", "streaming-16"}));
  ASSERT_THAT(report, tests::IsOk());
  EXPECT_THAT(report->rows[0].error_k, SizeIs(0));
  EXPECT_EQ(report->rows[0].bytes_per_vector, 8);
  EXPECT_EQ(report->rows[1].bytes_per_vector, 16);
  EXPECT_GT(report->rows[0].kl, 0);
  EXPECT_LE(report->rows[0].top1, 1);
}

TEST_F(FidelityTest, AResultDoesNotDependOnWhatElseIsMeasured) {
  const auto alone = Measure(Options({}, {"rotate-2"}));
  const auto among = Measure(Options({}, {"kivi-4", "rotate-2", "streaming"}));
  ASSERT_THAT(alone, tests::IsOk());
  ASSERT_THAT(among, tests::IsOk());
  EXPECT_EQ(alone->rows[0].kl, among->rows[1].kl);
}

TEST_F(FidelityTest, ProgressNamesEveryDocument) {
  ASSERT_THAT(Measure(Options({}, {"token-4"})), tests::IsOk());
  EXPECT_THAT(progress_, testing::Contains("document 1 of 2: context"));
  EXPECT_THAT(progress_, testing::Contains("document 2 of 2: token-4"));
}

TEST_F(FidelityTest, ATextTooShortIsRefusedWithWhatIsNeeded) {
  const FidelityOptions options = Options({"dense"}, {});
  EXPECT_EQ(TokensNeeded(options), 2 * 321);
  EXPECT_THAT(Measure(options, 642), tests::IsOk());
  const auto report = Measure(options, 641);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(report.status().message(), HasSubstr("the text has 641 tokens"));
  EXPECT_THAT(report.status().message(), HasSubstr("need 642"));
}

TEST_F(FidelityTest, ContextsTooShortOrTooLongAreRefused) {
  FidelityOptions options = Options({"dense"}, {});
  options.n_tokens = 159;
  EXPECT_THAT(Measure(options).status().message(), HasSubstr("at least 160"));
  options.n_tokens = 1010;
  options.n_documents = 1;
  const auto report = Measure(options, 2000);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(report.status().message(), HasSubstr("1010 tokens and 20"));
  EXPECT_THAT(report.status().message(), HasSubstr("1024 positions"));
}

TEST_F(FidelityTest, WhatTheModelCannotDoIsRefused) {
  EXPECT_EQ(Measure(Options({"paper-s17"}, {})).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Measure(Options({"paper-s4"}, {}), 700, false).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const auto budget = Measure(Options({}, {"snapkv-33"}));
  EXPECT_EQ(budget.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(budget.status().message(), HasSubstr("33 bytes"));
}

TEST_F(FidelityTest, ReportsHoldEveryMethod) {
  const auto report = Measure(Options({"paper-s4"}, {"rotate-2", "streaming"}));
  ASSERT_THAT(report, tests::IsOk());
  const FidelitySetup setup{
      .model = "tiny", .n_tokens = 300, .n_continuation = 20, .n_documents = 2};
  const auto json = nlohmann::json::parse(FidelityJson(setup, *report), nullptr, false);
  ASSERT_TRUE(json.is_object());
  ASSERT_THAT(json["methods"], SizeIs(3));
  EXPECT_EQ(json["methods"][0]["name"], "paper-s4");
  EXPECT_EQ(json["methods"][0]["kind"], "profile");
  EXPECT_EQ(json["methods"][1]["relative_error_k"].size(), 3u);
  EXPECT_EQ(json["methods"][2]["kl"], report->rows[2].kl);
  const std::string csv = FidelityCsv(*report);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 4);
  // Every line has the columns of the first.
  const auto commas = std::count(csv.begin(), csv.begin() + csv.find('\n'), ',');
  EXPECT_EQ(std::count(csv.begin(), csv.end(), ','), 4 * commas);
  const std::string table = FidelityTable(setup, *report);
  EXPECT_THAT(table, HasSubstr("rotate-2"));
  EXPECT_THAT(table, HasSubstr("streaming"));
}

// -- Its parts ----------------------------------------------------------------------------------

TEST(DivergenceTest, IsThatOfTwoSmallDistributions) {
  // p = (1/2, 1/4, 1/4), p' = (1/4, 1/2, 1/4); adding a constant to logits changes nothing.
  const float reference[] = {std::log(0.5f) + 7, std::log(0.25f) + 7, std::log(0.25f) + 7};
  const float given[] = {std::log(0.25f), std::log(0.5f), std::log(0.25f)};
  const Divergence d = Diverge(reference, given, 2);
  EXPECT_NEAR(d.kl, 0.25 * std::log(2.0), 1e-6);
  EXPECT_FALSE(d.same_top);
  EXPECT_NEAR(d.nll, std::log(4.0), 1e-6);
  const Divergence same = Diverge(reference, reference, 0);
  EXPECT_EQ(same.kl, 0);
  EXPECT_TRUE(same.same_top);
}

TEST(DivergenceTest, LargeLogitsDoNotOverflow) {
  const float reference[] = {1e4f, 0, -1e4f};
  const float given[] = {0, 1e4f, -1e4f};
  const Divergence d = Diverge(reference, given, 0);
  EXPECT_NEAR(d.kl, 1e4, 1);
  EXPECT_NEAR(d.nll, 1e4, 1);
}

TEST_F(FidelityTest, CodedTokensLeaveAWindow) {
  EXPECT_EQ(CodedTokens(4096), 4096 - 128);
  EXPECT_EQ(CodedTokens(300), 160);
  EXPECT_EQ(CodedTokens(159), 0);
  EXPECT_EQ(CodedTokens(5), 0);
}

TEST_F(FidelityTest, RowsDecoderIsTheExactDecoderWhereTheCacheIsF32) {
  const std::vector<int32_t> ids = RandomIds(50);
  worker::ExactDecoder exact(*model_.transformer, stream_);
  RowsDecoder rows(*model_.transformer, stream_, kernels::DType::kF32);
  rows.KeepQueries(8);
  const auto expected = exact.Append(ids, 3);
  const auto logits = rows.Append(ids, 3);
  ASSERT_THAT(expected, tests::IsOk());
  ASSERT_THAT(logits, tests::IsOk());
  EXPECT_EQ(*logits, *expected);
  EXPECT_EQ(rows.NewestQueries(1, 4).size(), 4u * 4 * 16);
  EXPECT_EQ(rows.NewestQueries(1, 99).size(), 8u * 4 * 16);

  // And goes on from rows that it is given.
  RowsDecoder next(*model_.transformer, stream_, kernels::DType::kF32, rows.rows(), 50);
  const auto again = exact.Append(RandomIds(5), 5);
  const auto going_on = next.Append(RandomIds(5), 5);
  ASSERT_THAT(going_on, tests::IsOk());
  EXPECT_EQ(*going_on, *again);
}

TEST(FidelityOverflowTest, NumbersThatAreNotFiniteEndTheMeasurement) {
  const kernels::Stream stream = kernels::Stream::Cpu(1);
  const worker::ModelRank model =
      tests::MakeTinyModel({.dtype = "float16", .weight_scale = 1e5f}, stream).at(0);
  FidelityOptions options;
  options.n_tokens = 160;
  options.n_continuation = 1;
  options.n_documents = 1;
  const std::vector<int32_t> ids(200, 3);
  const auto report = MeasureFidelity(options, model, ids, [](const std::string&) {});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(report.status().message(), HasSubstr("layer 0"));
  EXPECT_THAT(report.status().message(), HasSubstr("positions 0 .. 159"));
}

TEST_F(FidelityTest, TokensBehindRowsLeftOutKeepTheirPositions) {
  const std::vector<int32_t> ids = RandomIds(50);
  RowsDecoder all(*model_.transformer, stream_, kernels::DType::kF32);
  ASSERT_THAT(all.Append(ids, 0), tests::IsOk());
  std::vector<LayerRows> newest = all.rows();
  const int64_t width = 2 * 16;
  for (LayerRows& rows : newest) {
    rows.k.erase(rows.k.begin(), rows.k.begin() + 10 * width);
    rows.v.erase(rows.v.begin(), rows.v.begin() + 10 * width);
  }
  RowsDecoder some(*model_.transformer, stream_, kernels::DType::kF32, newest, 50);
  ASSERT_THAT(all.Append(ids, 0), tests::IsOk());
  ASSERT_THAT(some.Append(ids, 0), tests::IsOk());
  // The first layer's keys follow from id and position alone.
  const std::vector<float>& of_all = all.rows()[0].k;
  const std::vector<float>& of_some = some.rows()[0].k;
  ASSERT_EQ(of_some.size() + 10 * width, of_all.size());
  EXPECT_TRUE(std::equal(of_some.begin(), of_some.end(), of_all.begin() + 10 * width));
}

}  // namespace
}  // namespace lexico::eval

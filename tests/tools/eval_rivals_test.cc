// The rivals of lexico-eval fidelity against their definitions: what they give back, how large
// their errors may be, what they count as bytes, what they refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "tests/support/status_matchers.h"
#include "tools/eval/rivals/eviction.h"
#include "tools/eval/rivals/group_quantizer.h"
#include "tools/eval/rivals/rival.h"
#include "tools/eval/rivals/rotation.h"

namespace lexico::eval {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr RowShape kShape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 128};
constexpr int64_t kTokens = 256;
constexpr int64_t kCoded = 128;

// Random rows, with one loud channel in the keys, as models have them.
class Rows {
 public:
  Rows() {
    std::mt19937_64 random(11);
    std::normal_distribution<float> normal;
    const int64_t n = kTokens * kShape.row_dim();
    for (std::vector<float>* kind : {&k_, &v_}) {
      for (int64_t i = 0; i < n; ++i) kind->push_back(normal(random));
    }
    for (int64_t i = 5; i < n; i += kShape.head_dim) k_[i] += 12;
    for (int64_t i = 0; i < 40 * kShape.n_heads * kShape.head_dim; ++i)
      q_.push_back(normal(random));
  }
  LayerContext context() const {
    return {.shape = kShape, .n_tokens = kTokens, .n_coded = kCoded, .k = k_, .v = v_, .q = q_};
  }
  std::vector<float> k_;
  std::vector<float> v_;
  std::vector<float> q_;
};

constexpr int kBudgets[] = {48};

std::unique_ptr<const Rival> Make(const std::string& name) {
  auto rivals = ParseRival(name, kBudgets);
  EXPECT_THAT(rivals, tests::IsOk());
  return std::move(rivals->at(0));
}

// Of the keys and values together, relative to their energy.
double SquaredError(const std::string& name, const Rows& rows) {
  const LayerRows given = Make(name)->Compress(rows.context());
  double wrong = 0;
  double square = 0;
  for (size_t i = 0; i < given.k.size(); ++i) {
    wrong += std::pow(given.k[i] - rows.k_[i], 2) + std::pow(given.v[i] - rows.v_[i], 2);
    square += std::pow(rows.k_[i], 2) + std::pow(rows.v_[i], 2);
  }
  return wrong / square;
}

double Bytes(const std::string& name) { return Make(name)->BytesPerVector(kShape, kCoded); }

TEST(RivalTest, BytesHoldScalesAndZeroPoints) {
  EXPECT_EQ(Bytes("exact"), 256);
  // 128 numbers, and 4 groups of an FP16 scale and an FP16 zero point.
  EXPECT_EQ(Bytes("kivi-2"), 32 + 16);
  EXPECT_EQ(Bytes("kivi-4"), 64 + 16);
  EXPECT_EQ(Bytes("token-2"), 48);
  EXPECT_EQ(Bytes("token-4"), 80);
  // And one FP16 scale.
  EXPECT_EQ(Bytes("rotate-1"), 18);
  EXPECT_EQ(Bytes("rotate-2"), 34);
  EXPECT_EQ(Bytes("rotate-3-unbiased"), 50);
}

TEST(RivalTest, EvictionsKeepNoMoreThanTheirBytes) {
  for (const char* name : {"snapkv-48", "streaming-48", "snapkv-50"}) {
    const int budget = std::string(name).ends_with("50") ? 50 : 48;
    EXPECT_LE(Bytes(name), budget);
    EXPECT_GT(Bytes(name), budget - 256.0 / kCoded);
  }
  EXPECT_EQ(Make("snapkv-26")->BytesPerVector(kShape, kCoded), 26);
  EXPECT_EQ(KeptTokens(kShape, kCoded, 256), kCoded);
}

TEST(RivalTest, ExactGivesTheRowsBack) { EXPECT_EQ(SquaredError("exact", Rows()), 0); }

TEST(RivalTest, MoreBitsMeanLessError) {
  const Rows rows;
  EXPECT_LT(SquaredError("kivi-4", rows), SquaredError("kivi-2", rows) / 10);
  EXPECT_LT(SquaredError("token-4", rows), SquaredError("token-2", rows) / 10);
  EXPECT_LT(SquaredError("rotate-2", rows), SquaredError("rotate-1", rows) / 2);
  EXPECT_LT(SquaredError("rotate-3", rows), SquaredError("rotate-2", rows) / 2);
  EXPECT_LT(SquaredError("rotate-4", rows), SquaredError("rotate-3", rows) / 2);
}

TEST(RivalTest, LoudChannelsCostKeysLessWhenGroupedByChannel) {
  const Rows rows;
  EXPECT_LT(SquaredError("kivi-2", rows), SquaredError("token-2", rows));
}

TEST(RivalTest, UnknownNamesAreRefusedWithTheNearest) {
  const auto nearest = ParseRival("kivi2", kBudgets);
  EXPECT_EQ(nearest.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(nearest.status().message(), HasSubstr("nearest is kivi-2"));
  EXPECT_THAT(ParseRival("rotate-3-unbised", kBudgets).status().message(),
              HasSubstr("nearest is rotate-3-unbiased"));
  EXPECT_EQ(ParseRival("", kBudgets).status().code(), absl::StatusCode::kNotFound);
}

TEST(RivalTest, BudgetsThatAreNoneAreRefused) {
  for (const char* name : {"snapkv-", "snapkv-0", "streaming-x", "snapkv-4.5", "streaming--3"}) {
    const auto rival = ParseRival(name, kBudgets);
    EXPECT_EQ(rival.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(rival.status().message(), HasSubstr("is no budget"));
  }
  const absl::Status status = Make("streaming-257")->Check(kShape);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("257"));
  EXPECT_THAT(status.message(), HasSubstr("256"));
  EXPECT_THAT(Make("streaming-256")->Check(kShape), tests::IsOk());
}

TEST(RivalTest, AnEvictionWithoutABudgetStandsForOneAtEach) {
  const int budgets[] = {24, 48};
  const auto rivals = ParseRival("streaming", budgets);
  ASSERT_THAT(rivals, tests::IsOk());
  ASSERT_EQ(rivals->size(), 2u);
  EXPECT_EQ(rivals->at(0)->name(), "streaming-24");
  EXPECT_EQ(rivals->at(1)->BytesPerVector(kShape, kCoded), 48);
}

TEST(RivalTest, ShapesThatAMethodCannotDoAreRefused) {
  const RowShape odd{.n_heads = 1, .n_kv_heads = 1, .head_dim = 80};
  EXPECT_THAT(Make("rotate-2")->Check(odd).message(), HasSubstr("head_dim is 80"));
  EXPECT_THAT(Make("kivi-2")->Check(odd).message(), HasSubstr("head_dim is 80"));
  for (const std::string& name : RivalNames()) {
    EXPECT_THAT(Make(name)->Check(kShape), tests::IsOk()) << name;
  }
}

// -- Integers -----------------------------------------------------------------------------------

TEST(GroupQuantizerTest, AGroupOfItsOwnLevelsComesBackExactly) {
  // Zero point -1.5, scale 0.5: all FP16.
  std::vector<float> x = {-1.5f, -1.0f, -0.5f, 0.0f, -1.5f, -0.5f};
  const std::vector<float> before = x;
  QuantizeGroup(x.data(), 1, static_cast<int64_t>(x.size()), 2);
  EXPECT_EQ(x, before);
}

TEST(GroupQuantizerTest, EqualNumbersComeBackAsTheirFp16) {
  std::vector<float> x(32, 0.75f);
  QuantizeGroup(x.data(), 1, 32, 2);
  EXPECT_EQ(x, std::vector<float>(32, 0.75f));
  std::vector<float> zero(32);
  QuantizeGroup(zero.data(), 1, 32, 4);
  EXPECT_EQ(zero, std::vector<float>(32));
}

TEST(GroupQuantizerTest, ErrorsAreWithinHalfAStepAndTheRoundingOfItsEnds) {
  const Rows rows;
  for (const int bits : {2, 4}) {
    std::vector<float> x(rows.v_.begin(), rows.v_.begin() + 32);
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    const double step = (*high - *low) / ((1 << bits) - 1);
    // FP16 has 11 bits: the zero point is off by 2^-12 of itself, the scale too, up to 2^bits
    // times.
    const double bound = step / 2 + std::abs(*low) / 2048 + (*high - *low) / 2048;
    const std::vector<float> before = x;
    QuantizeGroup(x.data(), 1, 32, bits);
    std::set<float> levels(x.begin(), x.end());
    EXPECT_LE(levels.size(), size_t{1} << bits);
    for (int i = 0; i < 32; ++i) EXPECT_LE(std::abs(x[i] - before[i]), bound) << i;
  }
}

TEST(GroupQuantizerTest, AStrideLeavesTheNumbersBetweenAlone) {
  std::vector<float> x = {0, 100, 1, 100, 0.9f, 100};
  QuantizeGroup(x.data(), 2, 3, 2);
  EXPECT_EQ(x[1], 100);
  EXPECT_EQ(x[5], 100);
  EXPECT_THAT(x[4], testing::FloatNear(1, 1e-3));
}

// -- Rotation -----------------------------------------------------------------------------------

TEST(RotationTest, LevelsAreThoseOfMax) {
  // J. Max, Quantizing for minimum distortion, 1960, table I.
  EXPECT_THAT(LloydMaxLevels(1), ElementsAre(DoubleNear(-0.7980, 2e-4), DoubleNear(0.7980, 2e-4)));
  EXPECT_THAT(LloydMaxLevels(2), ElementsAre(DoubleNear(-1.510, 1e-3), DoubleNear(-0.4528, 1e-4),
                                             DoubleNear(0.4528, 1e-4), DoubleNear(1.510, 1e-3)));
  const std::vector<double> three = LloydMaxLevels(3);
  EXPECT_THAT(std::vector<double>(three.begin() + 4, three.end()),
              ElementsAre(DoubleNear(0.2451, 1e-4), DoubleNear(0.7560, 1e-4),
                          DoubleNear(1.344, 1e-3), DoubleNear(2.152, 1e-3)));
  EXPECT_THAT(LloydMaxLevels(4).back(), DoubleNear(2.733, 1e-3));
}

TEST(RotationTest, TheTransformKeepsNormsAndIsItsOwnInverse) {
  std::vector<float> x(64);
  std::iota(x.begin(), x.end(), -20.0f);
  const std::vector<float> before = x;
  HadamardTransform(x);
  const auto square = [](const std::vector<float>& y) {
    return std::inner_product(y.begin(), y.end(), y.begin(), 0.0);
  };
  EXPECT_NEAR(square(x) / square(before), 1, 1e-5);
  EXPECT_NE(x, before);
  HadamardTransform(x);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], before[i], 1e-4);
}

TEST(RotationTest, ErrorIsThatOfAGaussian) {
  // Distortion of the levels for a Gaussian (Max, table I); 512 vectors average it well.
  Rows rows;
  rows.k_ = rows.v_;  // without the loud channel
  EXPECT_NEAR(SquaredError("rotate-1", rows), 0.3634, 0.02);
  EXPECT_NEAR(SquaredError("rotate-2", rows), 0.1175, 0.008);
  EXPECT_NEAR(SquaredError("rotate-3", rows), 0.03454, 0.003);
}

TEST(RotationTest, TheUnbiasedScaleKeepsInnerProducts) {
  const Rows rows;
  for (const bool unbiased : {false, true}) {
    const LayerRows given =
        Make(unbiased ? "rotate-1-unbiased" : "rotate-1")->Compress(rows.context());
    for (int64_t at = 0; at < 20 * kShape.head_dim; at += kShape.head_dim) {
      double product = 0;
      double square = 0;
      for (int j = 0; j < kShape.head_dim; ++j) {
        product += static_cast<double>(given.v[at + j]) * rows.v_[at + j];
        square += static_cast<double>(rows.v_[at + j]) * rows.v_[at + j];
      }
      // FP16 scale.
      if (unbiased) {
        EXPECT_NEAR(product / square, 1, 1.0 / 2048);
      } else {
        EXPECT_LT(product / square, 0.8);
      }
    }
  }
}

TEST(RotationTest, ZeroVectorsStayZero) {
  Rows rows;
  std::fill(rows.k_.begin(), rows.k_.end(), 0.0f);
  const LayerRows given = Make("rotate-2-unbiased")->Compress(rows.context());
  EXPECT_EQ(given.k, std::vector<float>(kCoded * kShape.row_dim()));
}

// -- Eviction -----------------------------------------------------------------------------------

TEST(EvictionTest, StreamingKeepsTheFirstAndTheNewest) {
  const Rows rows;
  // 16 bytes of 256: 8 of 128 tokens.
  const LayerRows kept = Make("streaming-16")->Compress(rows.context());
  const int64_t width = kShape.row_dim();
  ASSERT_EQ(static_cast<int64_t>(kept.k.size()), 8 * width);
  const int64_t tokens[] = {0, 1, 2, 3, 124, 125, 126, 127};
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(std::equal(kept.k.begin() + i * width, kept.k.begin() + (i + 1) * width,
                           rows.k_.begin() + tokens[i] * width));
    EXPECT_TRUE(std::equal(kept.v.begin() + i * width, kept.v.begin() + (i + 1) * width,
                           rows.v_.begin() + tokens[i] * width));
  }
}

TEST(EvictionTest, SnapKeepsWhatTheNewestQueriesLookAtInEachHead) {
  Rows rows;
  // Head 0 looks at token 40, head 1 at token 90; queries point along one axis.
  std::fill(rows.q_.begin(), rows.q_.end(), 0.0f);
  for (size_t i = 7; i < rows.q_.size(); i += kShape.head_dim) rows.q_[i] = 20;
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int head = 0; head < 2; ++head) {
      rows.k_[t * kShape.row_dim() + head * kShape.head_dim + 7] =
          t == (head == 0 ? 40 : 90) ? 9.0f : 0.0f;
    }
  }
  const std::vector<float> scores = SnapScores(rows.context(), 0);
  EXPECT_GT(scores[40], 20);  // of 32 queries and 2 query heads
  EXPECT_EQ(scores[43], scores[40]);
  EXPECT_LT(scores[44], 1);
  const LayerRows kept = Make("snapkv-14")->Compress(rows.context());  // 7 tokens: the pooled ones
  const int64_t width = kShape.row_dim();
  ASSERT_EQ(static_cast<int64_t>(kept.v.size()), 7 * width);
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(kept.v[i * width], rows.v_[(37 + i) * width]);
    EXPECT_EQ(kept.v[i * width + kShape.head_dim], rows.v_[(87 + i) * width + kShape.head_dim]);
  }
}

TEST(EvictionTest, SnapScoresSumToWhatTheQueriesGiveTheContext) {
  // Without pooling each query gives at most 1; pooled by 7 at most 7.
  const Rows rows;
  const std::vector<float> scores = SnapScores(rows.context(), 1);
  const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  EXPECT_GT(sum, 0);
  EXPECT_LT(sum, 7.0 * 2 * kSnapQueries);
}

}  // namespace
}  // namespace lexico::eval

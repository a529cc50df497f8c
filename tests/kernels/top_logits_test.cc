// Top logits on every device: the definition's, to the bit but for the sums' rounding.
#include "kernels/api/top_logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/top_logits.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/device_ops.h"

namespace lexico::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Results {
  std::vector<float> top;
  std::vector<int32_t> ids;
  std::vector<RowSummary> summaries;
};

class TopLogitsTest : public tests::DeviceTest {
 protected:
  std::vector<float> RandomLogits(int64_t n, float step = 0) {
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> logits(n);
    for (float& logit : logits) {
      logit = normal(random_);
      if (step > 0) logit = std::round(logit / step) * step;
    }
    return logits;
  }

  std::vector<RowDraw> RandomDraws(int64_t n_rows) {
    std::uniform_real_distribution<double> uniform(0, 1);
    std::vector<RowDraw> draws(n_rows);
    for (RowDraw& draw : draws) draw = {0.2 + 2 * uniform(random_), uniform(random_)};
    return draws;
  }

  static TopLogitsArgs ArgsOf(const float* logits, const RowDraw* draws, int64_t n_rows,
                              int64_t n_vocab, int n_top) {
    return {.logits = logits, .n_rows = n_rows, .n_vocab = n_vocab, .n_top = n_top, .draws = draws};
  }

  Results OnDevice(const std::vector<float>& logits, const std::vector<RowDraw>& draws, int n_top) {
    const auto n_rows = std::ssize(draws);
    const tests::DeviceArray<float> device_logits(logits, stream());
    const tests::DeviceArray<RowDraw> device_draws(draws, stream());
    const tests::DeviceArray<float> top(std::vector<float>(n_rows * n_top, -7), stream());
    const tests::DeviceArray<int32_t> ids(std::vector<int32_t>(n_rows * n_top, -7), stream());
    const tests::DeviceArray<RowSummary> summaries(std::vector<RowSummary>(n_rows), stream());
    TopLogitsArgs args = ArgsOf(device_logits.data(), device_draws.data(), n_rows,
                                std::ssize(logits) / n_rows, n_top);
    args.top = top.data();
    args.top_ids = ids.data();
    args.summaries = summaries.data();
    TopLogits(args, stream());
    return {top.Values(), ids.Values(), summaries.Values()};
  }

  static Results Defined(const std::vector<float>& logits, const std::vector<RowDraw>& draws,
                         int n_top) {
    const auto n_rows = std::ssize(draws);
    Results results = {std::vector<float>(n_rows * n_top), std::vector<int32_t>(n_rows * n_top),
                       std::vector<RowSummary>(n_rows)};
    TopLogitsArgs args =
        ArgsOf(logits.data(), draws.data(), n_rows, std::ssize(logits) / n_rows, n_top);
    args.top = results.top.data();
    args.top_ids = results.ids.data();
    args.summaries = results.summaries.data();
    cpu::TopLogits(args);
    return results;
  }

  void ExpectAsDefined(const std::vector<float>& logits, const std::vector<RowDraw>& draws,
                       int n_top) {
    const Results got = OnDevice(logits, draws, n_top);
    const Results expected = Defined(logits, draws, n_top);
    for (size_t r = 0; r < draws.size(); ++r) {
      const RowSummary& row = expected.summaries[r];
      ASSERT_EQ(got.summaries[r].bad, row.bad);
      if (row.bad >= 0) continue;
      for (int i = 0; i < n_top; ++i) {
        const size_t at = r * n_top + i;
        ASSERT_EQ(got.top[at], expected.top[at]) << "row " << r << " place " << i;
        ASSERT_EQ(got.ids[at], expected.ids[at]) << "row " << r << " place " << i;
      }
      ASSERT_EQ(got.summaries[r].max, row.max);
      if (row.max == -kInf) continue;
      EXPECT_NEAR(got.summaries[r].sum / row.sum, 1, 1e-12);
      EXPECT_NEAR(got.summaries[r].sum_at_temperature / row.sum_at_temperature, 1, 1e-12);
      EXPECT_EQ(got.summaries[r].drawn, row.drawn) << "row " << r;
      if (row.drawn < 0) continue;
      EXPECT_EQ(got.summaries[r].drawn_logit, row.drawn_logit);
    }
  }

  std::mt19937_64 random_{11};
};
LEXICO_TEST_ON_ALL_DEVICES(TopLogitsTest);

TEST_P(TopLogitsTest, VocabulariesOfManySizes) {
  for (const int64_t n_vocab : {1, 2, 63, 64, 65, 2047, 2048, 2049, 8192, 128256}) {
    for (const int n_top : {1, 7, kTopLogitsMax}) {
      ExpectAsDefined(RandomLogits(3 * n_vocab), RandomDraws(3), n_top);
    }
  }
}

TEST_P(TopLogitsTest, TheLargestVocabularyIsMergedInSeveralPasses) {
  ExpectAsDefined(RandomLogits(1 << 20), RandomDraws(1), kTopLogitsMax);
}

TEST_P(TopLogitsTest, ManyRows) { ExpectAsDefined(RandomLogits(70 * 5000), RandomDraws(70), 20); }

TEST_P(TopLogitsTest, EqualLogitsAreInTheOrderOfTheirIds) {
  ExpectAsDefined(RandomLogits(2 * 9000, 4.0F), RandomDraws(2), kTopLogitsMax);
  ExpectAsDefined(std::vector<float>(5000, 2.5F), RandomDraws(1), 33);
  std::vector<float> zeros(5000, 0.0F);
  for (size_t i = 0; i < zeros.size(); i += 2) zeros[i] = -0.0F;
  ExpectAsDefined(zeros, RandomDraws(1), 1);
}

TEST_P(TopLogitsTest, MinusInfinityIsALogitLikeOthersAndNeverDrawn) {
  std::vector<float> logits(3000, -kInf);
  ExpectAsDefined(logits, RandomDraws(1), 5);
  logits[2900] = -3.0e38F;
  ExpectAsDefined(logits, {{1.0, 0.0}}, 5);
  logits[2] = 1;
  ExpectAsDefined(logits, {{1.0, 0.999999}}, 5);
}

TEST_P(TopLogitsTest, NamesTheFirstThatIsNoNumber) {
  std::vector<float> logits = RandomLogits(2 * 5000);
  logits[4001] = std::numeric_limits<float>::quiet_NaN();
  logits[4000] = kInf;
  ExpectAsDefined(logits, RandomDraws(2), 4);
  EXPECT_EQ(OnDevice(logits, RandomDraws(2), 4).summaries[0].bad, 4000);
}

TEST_P(TopLogitsTest, DrawsFollowTheirUniformNumber) {
  // Weights 1, 2, 1 at the two ends and in the middle of a long row.
  std::vector<float> logits(6000, -kInf);
  logits[0] = logits[5999] = 0;
  logits[3000] = std::log(2.0F);
  const auto drawn = [&](double uniform) {
    return OnDevice(logits, {{1.0, uniform}}, 1).summaries[0].drawn;
  };
  EXPECT_EQ(drawn(0), 0);
  EXPECT_EQ(drawn(0.24), 0);
  EXPECT_EQ(drawn(0.26), 3000);
  EXPECT_EQ(drawn(0.74), 3000);
  EXPECT_EQ(drawn(0.76), 5999);
}

}  // namespace
}  // namespace lexico::kernels

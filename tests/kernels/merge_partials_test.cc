#include "kernels/api/merge_partials.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/convert.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_ops.h"

namespace lexico::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Softmax attention over scores [n] with values [n, head_dim], as a part of one head.
struct Part {
  std::vector<float> out;
  float max_score = -kInf;
  float sum_exp = 0;

  Part(const std::vector<float>& scores, const std::vector<float>& values, int head_dim)
      : out(head_dim, 0.0f) {
    for (const float score : scores) max_score = std::max(max_score, score);
    for (size_t t = 0; t < scores.size(); ++t) {
      const float p = std::exp(scores[t] - max_score);
      sum_exp += p;
      for (int i = 0; i < head_dim; ++i) out[i] += p * values[t * head_dim + i];
    }
  }

  AttentionPart View() const {
    const int64_t head_dim = static_cast<int64_t>(out.size());
    return {TensorView(out.data(), {1, 1, head_dim}), TensorView(&max_score, {1, 1}),
            TensorView(&sum_exp, {1, 1})};
  }
};

class MergePartialsTest : public tests::DeviceTest {
 protected:
  static constexpr int kHeadDim = 5;
  std::vector<float> Scores(size_t n, float scale) {
    return tests::RandomNormal(n, random_, scale);
  }
  std::vector<float> Values(size_t n) { return tests::RandomNormal(n * kHeadDim, random_); }

  std::vector<float> Merge(const std::vector<Part>& parts) const {
    std::vector<AttentionPart> views;
    for (const Part& part : parts) views.push_back(part.View());
    const int64_t head_dim = static_cast<int64_t>(parts[0].out.size());
    std::vector<float> out(head_dim, kNan);
    Ops().MergePartials(views, MutableTensorView(out.data(), {1, 1, head_dim}));
    return out;
  }

  std::mt19937 random_{1};
};
LEXICO_TEST_ON_ALL_DEVICES(MergePartialsTest);

TEST_P(MergePartialsTest, PartsOfASoftmaxGiveTheWhole) {
  for (const float scale : {1.0f, 30.0f, 1e4f}) {
    const std::vector<float> scores = Scores(12, scale);
    const std::vector<float> values = Values(12);
    const std::vector<float> whole = Merge({Part(scores, values, kHeadDim)});
    std::vector<Part> parts;
    const int cuts[] = {0, 1, 5, 5, 12};  // the third is empty
    for (int p = 0; p < 4; ++p) {
      parts.emplace_back(std::vector<float>(scores.begin() + cuts[p], scores.begin() + cuts[p + 1]),
                         std::vector<float>(values.begin() + cuts[p] * kHeadDim,
                                            values.begin() + cuts[p + 1] * kHeadDim),
                         kHeadDim);
    }
    const std::vector<float> merged = Merge(parts);
    for (int i = 0; i < kHeadDim; ++i) EXPECT_NEAR(merged[i], whole[i], 1e-6f) << scale;
  }
}

TEST_P(MergePartialsTest, OnePartIsNormalised) {
  const Part part({0, 0}, {1, 2, 3, 4, 5, 3, 4, 5, 6, 7}, kHeadDim);
  EXPECT_EQ(Merge({part}), (std::vector<float>{2, 3, 4, 5, 6}));
}

TEST_P(MergePartialsTest, EmptyPartsAreNotReadAndAllEmptyGivesZero) {
  const Part full({1.0f}, {1, 2, 3, 4, 5}, kHeadDim);
  Part empty({}, {}, kHeadDim);
  empty.out.assign(kHeadDim, kNan);
  EXPECT_EQ(Merge({empty, full, empty}), (std::vector<float>{1, 2, 3, 4, 5}));
  EXPECT_EQ(Merge({empty, empty}), std::vector<float>(kHeadDim, 0.0f));
}

TEST_P(MergePartialsTest, HeadsDoNotSeeEachOther) {
  std::vector<float> out = {1, 2, kNan, kNan, 5, 6};
  const std::vector<float> max_score = {0, 0, 0};
  const std::vector<float> sum_exp = {1, 1, 2};
  const AttentionPart part = {TensorView(out.data(), {1, 3, 2}),
                              TensorView(max_score.data(), {1, 3}),
                              TensorView(sum_exp.data(), {1, 3})};
  std::vector<float> merged(6);
  Ops().MergePartials({&part, 1}, MutableTensorView(merged.data(), {1, 3, 2}));
  EXPECT_EQ(merged[0], 1);
  EXPECT_EQ(merged[1], 2);
  EXPECT_TRUE(std::isnan(merged[2]));
  EXPECT_EQ(merged[4], 2.5f);
  EXPECT_EQ(merged[5], 3);
}

TEST_P(MergePartialsTest, OutputMayBeAPart) {
  const Part a(Scores(4, 1), Values(4), kHeadDim);
  Part b(Scores(4, 1), Values(4), kHeadDim);
  const std::vector<float> expected = Merge({a, b});
  const AttentionPart views[] = {a.View(), b.View()};
  Ops().MergePartials(views, MutableTensorView(b.out.data(), {1, 1, kHeadDim}));
  EXPECT_EQ(b.out, expected);
}

TEST_P(MergePartialsTest, ManyRowsGiveTheSameOnAnyNumberOfThreads) {
  const int64_t n_seqs = 700;
  const std::vector<float> out = tests::RandomNormal(n_seqs * 2 * kHeadDim, random_);
  const std::vector<float> max_score = tests::RandomNormal(n_seqs * 2, random_);
  const std::vector<float> sum_exp(n_seqs * 2, 3.0f);
  const AttentionPart part = {TensorView(out.data(), {n_seqs, 2, kHeadDim}),
                              TensorView(max_score.data(), {n_seqs, 2}),
                              TensorView(sum_exp.data(), {n_seqs, 2})};
  const AttentionPart parts[] = {part, part};
  std::vector<float> one(out.size());
  std::vector<float> three(out.size());
  Ops().MergePartials(parts, MutableTensorView(one.data(), {n_seqs, 2, kHeadDim}));
  Ops(3).MergePartials(parts, MutableTensorView(three.data(), {n_seqs, 2, kHeadDim}));
  EXPECT_EQ(one, three);
  EXPECT_NEAR(one[0], out[0] / 3, 1e-6f);
}

TEST_P(MergePartialsTest, AGpuWritesWhatTheNextProductReads) {
  if (!on_gpu()) GTEST_SKIP() << "a CPU's products read F32";
  const Part part(Scores(12, 1), Values(12), kHeadDim);
  const std::vector<float> exact = Merge({part});
  const AttentionPart view = part.View();
  for (const DType type : {DType::kBF16, DType::kF16}) {
    std::vector<uint16_t> out(kHeadDim);
    Ops().MergePartials({&view, 1}, MutableTensorView(out.data(), type, {1, 1, kHeadDim}));
    for (int i = 0; i < kHeadDim; ++i) {
      EXPECT_EQ(out[i],
                type == DType::kBF16 ? cpu::FloatToBf16(exact[i]) : cpu::FloatToF16(exact[i]));
    }
  }
}

TEST(MergePartialsDeathTest, RejectsMalformedArguments) {
  const Part a({1}, {1, 2, 3}, 3);
  const Part b({1}, {1, 2, 3, 4}, 4);
  std::vector<float> out(3);
  const MutableTensorView view(out.data(), {1, 1, 3});
  const AttentionPart parts[] = {a.View(), b.View()};
  EXPECT_DEATH(MergePartials(parts, view, Stream::Cpu(1)), "part.out.dim\\(2\\) \\(4\\)");
  EXPECT_DEATH(MergePartials({}, view, Stream::Cpu(1)), "parts.size");
  const MutableTensorView narrow(out.data(), DType::kBF16, {1, 1, 3});
  EXPECT_DEATH(MergePartials(std::span(parts).first(1), narrow, Stream::Cpu(1)), "out.dtype");
}

}  // namespace
}  // namespace lexico::kernels

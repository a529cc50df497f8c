// DenseAttention against its definition and against itself. Inputs come from a seed that every
// failure prints.
#include "kernels/api/dense_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/api/merge_partials.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dense_attention.h"
#include "kernels/cpu/dense_attention_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_ops.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::DeviceOps;
using tests::IsClose;
using tests::RandomNormal;
using tests::SameBits;

constexpr double kUlps = 16;  // in units of magnitudes that already count every term
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What one sequence reads.
struct Tokens {
  int64_t n_pages = 0;
  int64_t n_rows = 0;
};

struct Shape {
  int64_t n_kv_heads = 2;
  int64_t group = 4;
  int64_t head_dim = 16;
  DType type = DType::kBF16;
  int64_t page_tokens = 4;
  std::vector<Tokens> seqs = {{0, 5}};

  std::string Text() const {
    return fmt::format("{} n_kv_heads {} group {} head_dim {} page {} seqs {} first {}/{}",
                       DTypeName(type), n_kv_heads, group, head_dim, page_tokens, seqs.size(),
                       seqs[0].n_pages, seqs[0].n_rows);
  }
};

struct Outputs {
  std::vector<float> out;
  std::vector<float> max_score;
  std::vector<float> sum_exp;
};

class Problem {
 public:
  Problem(const Shape& shape, uint32_t seed, float q_scale = 1.0f) : shape_(shape), random_(seed) {
    n_heads_ = shape.n_kv_heads * shape.group;
    q_ = RandomNormal(n_seqs() * n_heads_ * shape.head_dim, random_, q_scale);
    layout_ = {.n_kv_heads = static_cast<int>(shape.n_kv_heads),
               .head_dim = static_cast<int>(shape.head_dim),
               .page_tokens = static_cast<int>(shape.page_tokens),
               .dense_type = shape.type};
    begin_.push_back(0);
    for (const Tokens& seq : shape.seqs) {
      for (int64_t p = 0; p < seq.n_pages; ++p) {
        pages_.push_back(Fill(layout_.payload_bytes() / DTypeBytes(shape.type)));
      }
      begin_.push_back(static_cast<int64_t>(pages_.size()));
      const int64_t n = seq.n_rows * shape.n_kv_heads * shape.head_dim;
      uint8_t* k = Fill(n);
      rows_.push_back({k, Fill(n), seq.n_rows});
    }
  }

  int64_t n_seqs() const { return static_cast<int64_t>(shape_.seqs.size()); }
  std::vector<float>& q() { return q_; }
  const std::vector<uint8_t*>& pages() const { return pages_; }
  const PageLayout& layout() const { return layout_; }

  // Of its pages, what every sequence has.
  void set_n_pages(std::vector<int32_t> n_pages) { n_pages_ = std::move(n_pages); }

  void KeepFirstSequence() {
    shape_.seqs.resize(1);
    begin_.resize(2);
  }

  // Sets key (or value) of one row of a sequence, all heads and components.
  void SetRow(int64_t seq, int64_t row, bool value, float to) {
    const int64_t width = shape_.n_kv_heads * shape_.head_dim;
    const void* data = value ? rows_[seq].v : rows_[seq].k;
    for (int64_t i = 0; i < width; ++i) Store(const_cast<void*>(data), row * width + i, to);
  }

  DenseAttentionArgs Args(Outputs& o) const {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    o.out.assign(n_seqs() * n_heads_ * shape_.head_dim, nan);
    o.max_score.assign(n_seqs() * n_heads_, nan);
    o.sum_exp.assign(n_seqs() * n_heads_, nan);
    DenseAttentionArgs args;
    args.q = OutView(q_);
    args.rows = rows_.data();
    for (const Tokens& seq : shape_.seqs) args.rows_max = std::max(args.rows_max, seq.n_rows);
    args.pages = pages_.data();
    args.page_begin = begin_.data();
    args.n_pages = n_pages_.empty() ? nullptr : n_pages_.data();
    args.layout = layout_;
    args.n_kv_heads = static_cast<int>(shape_.n_kv_heads);
    args.kv_type = shape_.type;
    args.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    args.out = MutableTensorView(o.out.data(), {n_seqs(), n_heads_, shape_.head_dim});
    args.max_score = MutableTensorView(o.max_score.data(), {n_seqs(), n_heads_});
    args.sum_exp = MutableTensorView(o.sum_exp.data(), {n_seqs(), n_heads_});
    return args;
  }

  Outputs Attend(const DeviceOps& ops) const {
    Outputs o;
    ops.DenseAttention(Args(o));
    return o;
  }

  void ExpectMatchesDefinition(const DeviceOps& ops) const {
    SCOPED_TRACE(shape_.Text());
    Outputs expected;
    Outputs magnitude;
    const DenseAttentionArgs sizes = Args(magnitude);
    cpu::definition::DenseAttention(Args(expected), {sizes.out, sizes.max_score, sizes.sum_exp});
    Outputs actual;
    const DenseAttentionArgs args = Args(actual);
    ops.DenseAttention(args);
    EXPECT_TRUE(IsClose(args.out, OutView(expected.out), sizes.out, kUlps));
    EXPECT_TRUE(IsClose(args.max_score, StatView(expected.max_score), sizes.max_score, kUlps));
    EXPECT_TRUE(IsClose(args.sum_exp, StatView(expected.sum_exp), sizes.sum_exp, kUlps));
  }

  void ExpectSameBits(const Outputs& a, const Outputs& b) const {
    EXPECT_TRUE(SameBits(OutView(a.out), OutView(b.out)));
    EXPECT_TRUE(SameBits(StatView(a.max_score), StatView(b.max_score)));
    EXPECT_TRUE(SameBits(StatView(a.sum_exp), StatView(b.sum_exp)));
  }

  TensorView OutView(const std::vector<float>& x) const {
    return TensorView(x.data(), {n_seqs(), n_heads_, shape_.head_dim});
  }
  TensorView StatView(const std::vector<float>& x) const {
    return TensorView(x.data(), {n_seqs(), n_heads_});
  }

 private:
  // n random numbers of the cache type, kept.
  uint8_t* Fill(int64_t n) {
    std::vector<uint8_t>& bytes = bytes_.emplace_back(n * DTypeBytes(shape_.type));
    const std::vector<float> values = RandomNormal(n, random_);
    for (int64_t i = 0; i < n; ++i) Store(bytes.data(), i, values[i]);
    return bytes.data();
  }

  void Store(void* data, int64_t i, float value) {
    if (shape_.type == DType::kF32) static_cast<float*>(data)[i] = value;
    if (shape_.type == DType::kF16) static_cast<uint16_t*>(data)[i] = cpu::FloatToF16(value);
    if (shape_.type == DType::kBF16) static_cast<uint16_t*>(data)[i] = cpu::FloatToBf16(value);
  }

  Shape shape_;
  std::mt19937 random_;
  PageLayout layout_;
  int64_t n_heads_ = 0;
  std::vector<float> q_;
  std::deque<std::vector<uint8_t>> bytes_;
  std::vector<uint8_t*> pages_;
  std::vector<DenseRows> rows_;
  std::vector<int64_t> begin_;
  std::vector<int32_t> n_pages_;
};

class DenseAttentionTest : public tests::DeviceTest {};
LEXICO_TEST_ON_ALL_DEVICES(DenseAttentionTest);

TEST_P(DenseAttentionTest, MatchesDefinitionOnAllTinyShapes) {
  uint32_t seed = 1;
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32})
    for (const int64_t head_dim : {8, 10, 16, 24}) {
      if (on_gpu() && head_dim % 8 != 0) continue;
      for (const int64_t group : {1, 2, 4, 5})
        for (int64_t n_tokens = 1; n_tokens <= 9; ++n_tokens) {
          SCOPED_TRACE(seed);
          const std::vector<Tokens> seqs = {{0, n_tokens}, {n_tokens % 4, n_tokens % 3}};
          Problem({2, group, head_dim, type, 2, seqs}, seed++).ExpectMatchesDefinition(Ops());
        }
    }
}

TEST_P(DenseAttentionTest, MatchesDefinitionOnHeadsOfRealModels) {
  uint32_t seed = 300;
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32})
    for (const int64_t head_dim : {64, 96, 128, 256})
      for (const int64_t group : {1, 4, 7, 16, 20}) {
        SCOPED_TRACE(seed);
        Problem({2, group, head_dim, type, 32, {{3, 17}, {0, 130}, {9, 0}}}, seed++)
            .ExpectMatchesDefinition(Ops());
      }
}

TEST_P(DenseAttentionTest, MatchesDefinitionOverManyPagesPartsAndChunks) {
  const int64_t part = cpu::kDensePartTokens;
  Problem({2, 4, 128, DType::kBF16, 32, {{20, 7}, {}, {2, 2 * part + 3}}}, 21)
      .ExpectMatchesDefinition(Ops());
  Problem({1, 16, 256, DType::kF16, 2, {{400, part - 1}, {16, 1}}}, 22)
      .ExpectMatchesDefinition(Ops());
  // Pages that are not a whole number of tiles.
  Problem({1, 4, 64, DType::kF16, 6, {{100, 50}, {7, 300}}}, 23).ExpectMatchesDefinition(Ops());
}

TEST_P(DenseAttentionTest, LongSequencesMatchDefinition) {
  Problem({1, 1, 8, DType::kBF16, 32, {{1100, 40}}}, 31).ExpectMatchesDefinition(Ops());
  Problem({1, 2, 16, DType::kF32, 4, {{0, 40000}, {3, 9}}}, 32).ExpectMatchesDefinition(Ops());
}

TEST_P(DenseAttentionTest, PagesMayLieAtAnOffsetFromTheirPointers) {
  const Problem problem({2, 3, 16, DType::kBF16, 4, {{5, 3}, {2, 0}}}, 33);
  const Outputs expected = problem.Attend(Ops());
  std::vector<std::vector<uint8_t>> blocks;
  std::vector<const uint8_t*> pointers;
  for (const uint8_t* page : problem.pages()) {
    std::vector<uint8_t>& block = blocks.emplace_back(192, uint8_t{0xff});
    block.insert(block.end(), page, page + problem.layout().payload_bytes());
    pointers.push_back(block.data());
  }
  Outputs actual;
  DenseAttentionArgs args = problem.Args(actual);
  args.pages = pointers.data();
  args.page_offset = 192;
  Ops().DenseAttention(args);
  problem.ExpectSameBits(actual, expected);
}

// As where a step is planned for more pages than sequences have yet.
TEST_P(DenseAttentionTest, SequencesMayHaveFewerPagesThanTheirPlaces) {
  Problem problem(
      {2, 2, 32, DType::kBF16, 32, {{8, 3}, {8, 0}, {600, 40}, {16, 1}, {0, 5}, {1, 0}}}, 33);
  for (const std::vector<int32_t>& n_pages :
       {std::vector<int32_t>{1, 8, 513, 0, 0, 0}, {7, 0, 64, 16, 0, 1}, {9, 8, 600, 17, 5, 1}}) {
    problem.set_n_pages(n_pages);
    problem.ExpectMatchesDefinition(Ops());
  }
  // The last of them have all of their pages: what stands there changes no bit.
  const Outputs with_counts = problem.Attend(Ops());
  problem.set_n_pages({});
  problem.ExpectSameBits(with_counts, problem.Attend(Ops()));
}

TEST_P(DenseAttentionTest, RowsOrPagesMayBeAbsent) {
  const Problem rows({2, 3, 16, DType::kBF16, 4, {{0, 3}, {0, 200}}}, 34);
  const Outputs expected_rows = rows.Attend(Ops());
  Outputs actual;
  DenseAttentionArgs args = rows.Args(actual);
  args.pages = nullptr;
  args.page_begin = nullptr;
  args.layout = {};
  Ops().DenseAttention(args);
  rows.ExpectSameBits(actual, expected_rows);

  const Problem pages({2, 3, 16, DType::kBF16, 4, {{5, 0}, {2, 0}}}, 35);
  const Outputs expected_pages = pages.Attend(Ops());
  args = pages.Args(actual);
  args.rows = nullptr;
  args.rows_max = 0;
  Ops().DenseAttention(args);
  pages.ExpectSameBits(actual, expected_pages);
}

TEST_P(DenseAttentionTest, EmptySequenceGivesZeroSumAndMinusInfinityMax) {
  for (const Tokens& last : {Tokens{0, 3}, Tokens{3, 600}}) {
    const Problem problem({1, 2, 8, DType::kF32, 4, {{}, {0, 0}, last}}, 23);
    const Outputs o = problem.Attend(Ops());
    for (int64_t i = 0; i < 4; ++i) {
      EXPECT_EQ(o.max_score[i], -kInfinity);
      EXPECT_EQ(o.sum_exp[i], 0.0f);
      for (int64_t j = 0; j < 8; ++j) EXPECT_EQ(o.out[i * 8 + j], 0.0f);
    }
    EXPECT_GE(o.sum_exp[4], 1.0f);
  }
}

TEST_P(DenseAttentionTest, OneTokenReturnsItsValue) {
  Problem problem({1, 1, 8, DType::kF32, 4, {{0, 1}}}, 24);
  problem.SetRow(0, 0, /*value=*/true, 2.5f);
  const Outputs o = problem.Attend(Ops());
  EXPECT_EQ(o.sum_exp[0], 1.0f);
  for (const float x : o.out) EXPECT_EQ(x, 2.5f);
}

TEST_P(DenseAttentionTest, SequencesDoNotSeeEachOther) {
  const Shape shape{2, 3, 16, DType::kBF16, 4, {{1, 3}, {0, 6}, {1, 1}}};
  Problem clean(shape, 25);
  Problem poisoned(shape, 25);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool value : {false, true}) poisoned.SetRow(1, 1, value, nan);
  const Outputs a = clean.Attend(Ops(2));
  const Outputs b = poisoned.Attend(Ops(2));
  const int64_t row = 6 * 16;
  for (const int64_t seq : {0, 2})
    EXPECT_TRUE(SameBits(TensorView(a.out.data() + seq * row, {row}),
                         TensorView(b.out.data() + seq * row, {row})));
  for (int64_t i = row; i < 2 * row; ++i) EXPECT_TRUE(std::isnan(b.out[i]));
}

TEST_P(DenseAttentionTest, ASequenceHasTheSameBitsAloneAndOnAnyNumberOfThreads) {
  Problem problem({2, 4, 32, DType::kBF16, 4, {{300, 600}, {0, 40}, {700, 3}, {0, 1300}}}, 26);
  const Outputs first = problem.Attend(Ops(1));
  for (const int threads : {1, 2, 5}) problem.ExpectSameBits(problem.Attend(Ops(threads)), first);
  problem.KeepFirstSequence();
  const Outputs alone = problem.Attend(Ops(2));
  EXPECT_TRUE(SameBits(problem.OutView(alone.out), TensorView(first.out.data(), {1, 8, 32})));
  EXPECT_TRUE(SameBits(problem.StatView(alone.sum_exp), TensorView(first.sum_exp.data(), {1, 8})));
}

TEST_P(DenseAttentionTest, ASmallWorkspaceChangesNoBit) {
  if (!on_gpu()) GTEST_SKIP() << "a CPU has no workspace";
  const Problem problem({2, 4, 32, DType::kBF16, 4, {{300, 600}, {0, 40}, {7, 3}, {30, 1300}}}, 36);
  problem.ExpectSameBits(problem.Attend(OpsWithWorkspace(size_t{52} << 10)), problem.Attend(Ops()));
}

TEST_P(DenseAttentionTest, ManySequencesMatchDefinition) {
  std::vector<Tokens> seqs;
  for (int64_t i = 0; i < 300; ++i) seqs.push_back({i % 5, i % 7 == 0 ? 0 : i % 150});
  Problem({1, 2, 8, DType::kBF16, 4, seqs}, 37).ExpectMatchesDefinition(Ops());
  for (Tokens& seq : seqs) seq.n_pages = 0;
  Problem({1, 2, 8, DType::kBF16, 4, seqs}, 38).ExpectMatchesDefinition(Ops());
}

TEST_P(DenseAttentionTest, LargeScoresDoNotOverflow) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Problem problem({1, 2, 16, type, 4, {{75, 300}}}, 27, /*q_scale=*/1e4f);
    problem.ExpectMatchesDefinition(Ops());
    for (const float x : problem.Attend(Ops()).out) EXPECT_TRUE(std::isfinite(x));
  }
}

TEST_P(DenseAttentionTest, ScoreOfMinusInfinityHasNoWeight) {
  Problem problem({1, 1, 8, DType::kF32, 4, {{0, 3}}}, 28);
  for (float& x : problem.q()) x = 1.0f;
  problem.SetRow(0, 1, /*value=*/false, -kInfinity);
  problem.ExpectMatchesDefinition(Ops());
  for (const int64_t row : {0, 2}) problem.SetRow(0, row, /*value=*/false, -kInfinity);
  const Outputs o = problem.Attend(Ops());
  EXPECT_EQ(o.max_score[0], -kInfinity);
  EXPECT_EQ(o.sum_exp[0], 0.0f);
  for (const float x : o.out) EXPECT_EQ(x, 0.0f);
}

TEST_P(DenseAttentionTest, InfinityAndNanOfValuesReachTheOutput) {
  for (const float poison : {kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    Problem problem({1, 4, 8, DType::kBF16, 4, {{40, 90}}}, 39);
    problem.SetRow(0, 70, /*value=*/true, poison);
    for (const float x : problem.Attend(Ops()).out) {
      EXPECT_EQ(std::isnan(x), std::isnan(poison));
      EXPECT_FALSE(std::isfinite(x));
    }
  }
}

TEST(DenseAttentionDeathTest, ScaleZeroAborts) {
  std::vector<float> x(8, 1.0f);
  DenseAttentionArgs args;
  args.q = TensorView(x.data(), {1, 1, 8});
  args.n_kv_heads = 1;
  args.out = MutableTensorView(x.data(), {1, 1, 8});
  args.max_score = MutableTensorView(x.data(), {1, 1});
  args.sum_exp = MutableTensorView(x.data(), {1, 1});
  EXPECT_DEATH(DenseAttention(args, Stream::Cpu(1)), "scale");
}

}  // namespace
}  // namespace lexico::kernels

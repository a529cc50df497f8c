// DenseAttention against its definition and against itself. Inputs come from a seed that every
// failure prints.
#include "kernels/api/dense_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/api/merge_partials.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dense_attention.h"
#include "kernels/cpu/dense_attention_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::IsClose;
using tests::RandomNormal;
using tests::SameBits;

constexpr double kUlps = 16;  // in units of magnitudes that already count every term
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Shape {
  int64_t n_kv_heads = 2;
  int64_t group = 4;
  int64_t head_dim = 16;
  DType type = DType::kBF16;
  // Tokens of each piece of each sequence; even pieces are token-major, odd ones head-major.
  std::vector<std::vector<int64_t>> pieces = {{5}};
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
    begin_.push_back(0);
    for (const auto& seq : shape.pieces) {
      for (const int64_t n_tokens : seq) AddPiece(n_tokens);
      begin_.push_back(static_cast<int64_t>(pieces_.size()));
    }
  }

  int64_t n_seqs() const { return static_cast<int64_t>(shape_.pieces.size()); }
  std::vector<float>& q() { return q_; }

  void KeepFirstSequence() {
    shape_.pieces.resize(1);
    begin_.resize(2);
  }

  // Sets key (or value) of one token of a piece, all heads and components.
  void SetToken(size_t piece, int64_t token, bool value, float to) {
    for (int64_t head = 0; head < shape_.n_kv_heads; ++head)
      for (int64_t i = 0; i < shape_.head_dim; ++i) {
        const DensePiece& p = pieces_[piece];
        Store(value ? p.v : p.k, token * p.token_stride + head * p.head_stride + i, to);
      }
  }

  Outputs Run(int threads) {
    return Fill(
        [&](const DenseAttentionArgs& args) { DenseAttention(args, Stream::Cpu(threads)); });
  }

  void ExpectMatchesDefinition() {
    Outputs magnitude = Empty();
    const Outputs expected = Fill([&](const DenseAttentionArgs& args) {
      cpu::definition::DenseAttention(
          args, {Out(magnitude.out), Stat(magnitude.max_score), Stat(magnitude.sum_exp)});
    });
    Outputs actual = Run(2);
    EXPECT_TRUE(IsClose(Out(actual.out), OutView(expected.out), Out(magnitude.out), kUlps));
    EXPECT_TRUE(IsClose(Stat(actual.max_score), StatView(expected.max_score),
                        Stat(magnitude.max_score), kUlps));
    EXPECT_TRUE(
        IsClose(Stat(actual.sum_exp), StatView(expected.sum_exp), Stat(magnitude.sum_exp), kUlps));
  }

  TensorView OutView(const std::vector<float>& x) const {
    return TensorView(x.data(), {n_seqs(), n_heads_, shape_.head_dim});
  }
  TensorView StatView(const std::vector<float>& x) const {
    return TensorView(x.data(), {n_seqs(), n_heads_});
  }
  MutableTensorView Out(std::vector<float>& x) const {
    return MutableTensorView(x.data(), {n_seqs(), n_heads_, shape_.head_dim});
  }
  MutableTensorView Stat(std::vector<float>& x) const {
    return MutableTensorView(x.data(), {n_seqs(), n_heads_});
  }

 private:
  void AddPiece(int64_t n_tokens) {
    const bool head_major = pieces_.size() % 2 == 1;
    const int64_t n = n_tokens * shape_.n_kv_heads * shape_.head_dim;
    DensePiece piece;
    piece.n_tokens = n_tokens;
    piece.token_stride = head_major ? shape_.head_dim : shape_.n_kv_heads * shape_.head_dim;
    piece.head_stride = head_major ? n_tokens * shape_.head_dim : shape_.head_dim;
    for (const void** side : {&piece.k, &piece.v}) {
      bytes_.emplace_back(n * DTypeBytes(shape_.type));
      *side = bytes_.back().data();
      const std::vector<float> values = RandomNormal(n, random_);
      for (int64_t i = 0; i < n; ++i) Store(*side, i, values[i]);
    }
    pieces_.push_back(piece);
  }

  void Store(const void* to, int64_t i, float value) {
    void* data = const_cast<void*>(to);
    if (shape_.type == DType::kF32) static_cast<float*>(data)[i] = value;
    if (shape_.type == DType::kF16) static_cast<uint16_t*>(data)[i] = cpu::FloatToF16(value);
    if (shape_.type == DType::kBF16) static_cast<uint16_t*>(data)[i] = cpu::FloatToBf16(value);
  }

  Outputs Empty() const {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    return {std::vector<float>(n_seqs() * n_heads_ * shape_.head_dim, nan),
            std::vector<float>(n_seqs() * n_heads_, nan),
            std::vector<float>(n_seqs() * n_heads_, nan)};
  }

  template <class Op>
  Outputs Fill(const Op& op) {
    Outputs o = Empty();
    DenseAttentionArgs args;
    args.q = OutView(q_);
    args.pieces = pieces_.data();
    args.piece_begin = begin_.data();
    args.n_kv_heads = static_cast<int>(shape_.n_kv_heads);
    args.kv_type = shape_.type;
    args.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    args.out = Out(o.out);
    args.max_score = Stat(o.max_score);
    args.sum_exp = Stat(o.sum_exp);
    op(args);
    return o;
  }

  Shape shape_;
  std::mt19937 random_;
  int64_t n_heads_ = 0;
  std::vector<float> q_;
  std::vector<std::vector<uint8_t>> bytes_;
  std::vector<DensePiece> pieces_;
  std::vector<int64_t> begin_;
};

TEST(DenseAttentionTest, MatchesDefinitionOnAllTinyShapes) {
  uint32_t seed = 1;
  for (const DType type : {DType::kBF16, DType::kF16, DType::kF32})
    for (const int64_t head_dim : {8, 10, 16, 24})
      for (const int64_t group : {1, 2, 4, 5})
        for (int64_t n_tokens = 1; n_tokens <= 9; ++n_tokens) {
          SCOPED_TRACE(fmt::format("type {} head_dim {} group {} tokens {} seed {}",
                                   DTypeName(type), head_dim, group, n_tokens, seed));
          Problem({2, group, head_dim, type, {{n_tokens}}}, seed++).ExpectMatchesDefinition();
        }
}

TEST(DenseAttentionTest, MatchesDefinitionOverManyPiecesAndParts) {
  const int64_t part = cpu::kDensePartTokens;
  Problem({2, 4, 128, DType::kBF16, {{32, 32, part, 7}, {}, {1, 0, 2 * part + 3}}}, 21)
      .ExpectMatchesDefinition();
  Problem({1, 16, 256, DType::kF16, {{part - 1, 2}, {33}}}, 22).ExpectMatchesDefinition();
}

TEST(DenseAttentionTest, EmptySequenceGivesZeroSumAndMinusInfinityMax) {
  Problem problem({1, 2, 8, DType::kF32, {{}, {0}, {3}}}, 23);
  const Outputs o = problem.Run(1);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(o.max_score[i], -kInfinity);
    EXPECT_EQ(o.sum_exp[i], 0.0f);
    for (int64_t j = 0; j < 8; ++j) EXPECT_EQ(o.out[i * 8 + j], 0.0f);
  }
  EXPECT_GE(o.sum_exp[4], 1.0f);
}

TEST(DenseAttentionTest, OneTokenReturnsItsValue) {
  Problem problem({1, 1, 8, DType::kF32, {{1}}}, 24);
  problem.SetToken(0, 0, /*value=*/true, 2.5f);
  const Outputs o = problem.Run(1);
  EXPECT_EQ(o.sum_exp[0], 1.0f);
  for (const float x : o.out) EXPECT_EQ(x, 2.5f);
}

TEST(DenseAttentionTest, SequencesDoNotSeeEachOther) {
  const Shape shape{2, 3, 16, DType::kBF16, {{4, 3}, {6}, {2, 2}}};
  Problem clean(shape, 25);
  Problem poisoned(shape, 25);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool value : {false, true}) poisoned.SetToken(2, 1, value, nan);  // of sequence 1
  const Outputs a = clean.Run(2);
  const Outputs b = poisoned.Run(2);
  const int64_t row = 6 * 16;
  for (const int64_t seq : {0, 2})
    EXPECT_TRUE(SameBits(TensorView(a.out.data() + seq * row, {row}),
                         TensorView(b.out.data() + seq * row, {row})));
  for (int64_t i = row; i < 2 * row; ++i) EXPECT_TRUE(std::isnan(b.out[i]));
}

TEST(DenseAttentionTest, ASequenceHasTheSameBitsAloneAndOnAnyNumberOfThreads) {
  Problem problem({2, 4, 32, DType::kBF16, {{700, 9, 600}, {40}, {3}}}, 26);
  const Outputs first = problem.Run(1);
  for (const int threads : {1, 2, 5})
    EXPECT_TRUE(SameBits(problem.OutView(problem.Run(threads).out), problem.OutView(first.out)))
        << threads << " threads";
  problem.KeepFirstSequence();
  const Outputs alone = problem.Run(2);
  EXPECT_TRUE(SameBits(problem.OutView(alone.out), TensorView(first.out.data(), {1, 8, 32})));
  EXPECT_TRUE(SameBits(problem.StatView(alone.sum_exp), TensorView(first.sum_exp.data(), {1, 8})));
}

TEST(DenseAttentionTest, LargeScoresDoNotOverflow) {
  Problem problem({1, 2, 16, DType::kF32, {{300, 300}}}, 27, /*q_scale=*/1e4f);
  problem.ExpectMatchesDefinition();
  for (const float x : problem.Run(2).out) EXPECT_TRUE(std::isfinite(x));
}

TEST(DenseAttentionTest, ScoreOfMinusInfinityHasNoWeight) {
  Problem problem({1, 1, 8, DType::kF32, {{3}}}, 28);
  for (float& x : problem.q()) x = 1.0f;
  problem.SetToken(0, 1, /*value=*/false, -kInfinity);
  problem.ExpectMatchesDefinition();
  for (const int64_t token : {0, 2}) problem.SetToken(0, token, /*value=*/false, -kInfinity);
  const Outputs o = problem.Run(1);
  EXPECT_EQ(o.max_score[0], -kInfinity);
  EXPECT_EQ(o.sum_exp[0], 0.0f);
  for (const float x : o.out) EXPECT_EQ(x, 0.0f);
}

TEST(DenseAttentionDeathTest, ScaleZeroAborts) {
  std::vector<float> x(8, 1.0f);
  const int64_t begin[] = {0, 0};
  DenseAttentionArgs args;
  args.q = TensorView(x.data(), {1, 1, 8});
  args.piece_begin = begin;
  args.n_kv_heads = 1;
  args.out = MutableTensorView(x.data(), {1, 1, 8});
  args.max_score = MutableTensorView(x.data(), {1, 1});
  args.sum_exp = MutableTensorView(x.data(), {1, 1});
  EXPECT_DEATH(DenseAttention(args, Stream::Cpu(1)), "scale");
}

}  // namespace
}  // namespace lexico::kernels

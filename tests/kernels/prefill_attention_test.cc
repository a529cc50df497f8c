// PrefillAttention against its definition and against itself. Inputs come from a seed that every
// failure prints.
#include "kernels/cpu/prefill_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/api/dense_attention.h"
#include "kernels/cpu/convert.h"
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
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Shape {
  int64_t n_kv_heads = 1;
  int64_t group = 1;
  int64_t head_dim = 8;
  int64_t n_keys = 1;

  std::string Text() const {
    return fmt::format("n_kv_heads {} group {} head_dim {} n_keys {}", n_kv_heads, group, head_dim,
                       n_keys);
  }
};

// Queries, keys and values of every position; a call takes a chunk of the queries.
class Problem {
 public:
  Problem(const Shape& shape, uint32_t seed, float q_scale = 1.0f) : shape_(shape) {
    std::mt19937 random(seed);
    q = RandomNormal(shape.n_keys * query_size(), random, q_scale);
    k = RandomNormal(shape.n_keys * key_size(), random);
    v = RandomNormal(shape.n_keys * key_size(), random);
  }

  int64_t query_size() const { return shape_.n_kv_heads * shape_.group * shape_.head_dim; }
  int64_t key_size() const { return shape_.n_kv_heads * shape_.head_dim; }

  // Outputs of queries [first, first + n), [n, n_heads, head_dim].
  std::vector<float> Attend(const DeviceOps& ops, int64_t first, int64_t n) const {
    std::vector<float> out(n * query_size(), kNan);
    ops.PrefillAttention(Args(first, n, out));
    return out;
  }
  std::vector<float> Attend(const DeviceOps& ops) const { return Attend(ops, 0, shape_.n_keys); }

  void ExpectMatchesDefinition(const DeviceOps& ops, int64_t first, int64_t n) const {
    SCOPED_TRACE(fmt::format("{} queries {} .. {}", shape_.Text(), first, first + n));
    std::vector<float> expected(n * query_size());
    std::vector<float> magnitude(expected.size());
    cpu::definition::PrefillAttention(
        Args(first, n, expected),
        MutableTensorView(magnitude.data(), {static_cast<int64_t>(magnitude.size())}));
    const std::vector<float> actual = Attend(ops, first, n);
    EXPECT_TRUE(IsClose(View(actual), View(expected), View(magnitude), kUlps));
  }

  std::vector<float> RunBf16(const cpu::Bf16Tile& unit, int64_t first, int64_t n,
                             int threads = 2) const {
    std::vector<float> out(n * query_size(), kNan);
    cpu::PrefillAttentionBf16(Args(first, n, out), unit, threads);
    return out;
  }

  // Rounding of q, k, v and the exponentials to BF16 is 2^-9 each, 2^16 units of F32 in all at
  // most, relative to the same magnitudes.
  void ExpectBf16MatchesDefinition(const cpu::Bf16Tile& unit, int64_t first, int64_t n) const {
    SCOPED_TRACE(fmt::format("{} queries {} .. {}", shape_.Text(), first, first + n));
    std::vector<float> expected(n * query_size());
    std::vector<float> magnitude(expected.size());
    cpu::definition::PrefillAttention(
        Args(first, n, expected),
        MutableTensorView(magnitude.data(), {static_cast<int64_t>(magnitude.size())}));
    const std::vector<float> actual = RunBf16(unit, first, n);
    EXPECT_TRUE(IsClose(View(actual), View(expected), View(magnitude), 65536));
  }

  TensorView View(const std::vector<float>& x) const {
    return TensorView(x.data(), {static_cast<int64_t>(x.size()) / query_size(),
                                 shape_.n_kv_heads * shape_.group, shape_.head_dim});
  }

  std::vector<float> q;
  std::vector<float> k;
  std::vector<float> v;

 private:
  PrefillAttentionArgs Args(int64_t first, int64_t n, std::vector<float>& out) const {
    const int64_t n_heads = shape_.n_kv_heads * shape_.group;
    PrefillAttentionArgs args;
    args.q = TensorView(q.data() + first * query_size(), {n, n_heads, shape_.head_dim});
    args.k = TensorView(k.data(), {shape_.n_keys, shape_.n_kv_heads, shape_.head_dim});
    args.v = TensorView(v.data(), {shape_.n_keys, shape_.n_kv_heads, shape_.head_dim});
    args.first_position = first;
    args.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    args.allow_bf16 = false;
    args.out = MutableTensorView(out.data(), {n, n_heads, shape_.head_dim});
    return args;
  }

  Shape shape_;
};

class PrefillAttentionTest : public tests::DeviceTest {};
LEXICO_TEST_ON_ALL_DEVICES(PrefillAttentionTest);

TEST_P(PrefillAttentionTest, MatchesDefinitionOnAllTinyShapes) {
  uint32_t seed = 1;
  for (const int64_t head_dim : {1, 8, 10, 16, 40})
    for (const int64_t group : {1, 2, 3, 4, 16})
      for (int64_t n_keys = 1; n_keys <= 9; ++n_keys)
        Problem({2, group, head_dim, n_keys}, seed++).ExpectMatchesDefinition(Ops(), 0, n_keys);
}

TEST_P(PrefillAttentionTest, MatchesDefinitionAroundTileAndTaskEdges) {
  const int64_t tile = cpu::kPrefillTileKeys;
  uint32_t seed = 100;
  for (const int64_t n_keys : {tile - 1, tile, tile + 1, 2 * tile + 17})
    for (const int64_t n : {int64_t{1}, int64_t{5}, int64_t{70}})
      Problem({2, 4, 16, n_keys}, seed++).ExpectMatchesDefinition(Ops(), n_keys - n, n);
}

TEST_P(PrefillAttentionTest, MatchesDefinitionOnHeadsOfRealModels) {
  Problem({2, 4, 128, 300}, 200).ExpectMatchesDefinition(Ops(), 200, 100);
  Problem({1, 2, 256, 150}, 201).ExpectMatchesDefinition(Ops(), 0, 150);
  Problem({4, 2, 8, 200}, 202).ExpectMatchesDefinition(Ops(), 0, 200);  // stories260K
  Problem({1, 8, 64, 140}, 203).ExpectMatchesDefinition(Ops(), 100, 40);
}

TEST_P(PrefillAttentionTest, AQueryHasTheSameBitsInEveryChunkAndOnAnyNumberOfThreads) {
  const Problem problem({2, 4, 32, 400}, 300);
  const std::vector<float> all = problem.Attend(Ops());
  for (const int threads : {1, 3, 16})
    EXPECT_TRUE(SameBits(problem.View(problem.Attend(Ops(threads), 0, 400)), problem.View(all)));
  for (const auto& [first, n] : {std::pair{0, 1}, {37, 90}, {399, 1}, {128, 256}}) {
    const std::vector<float> chunk = problem.Attend(Ops(), first, n);
    EXPECT_TRUE(SameBits(problem.View(chunk),
                         TensorView(all.data() + first * problem.query_size(), {n, 8, 32})))
        << first << " " << n;
  }
}

TEST_P(PrefillAttentionTest, NanAndInfinityInLaterTokensDoNotLeak) {
  for (const float poison : {kNan, kInfinity}) {
    Problem problem({2, 4, 16, 300}, 301);
    const std::vector<float> clean = problem.Attend(Ops());
    for (const int64_t token : {int64_t{150}, int64_t{151}, int64_t{299}}) {
      std::fill_n(problem.k.begin() + token * problem.key_size(), problem.key_size(), poison);
      std::fill_n(problem.v.begin() + token * problem.key_size(), problem.key_size(), poison);
    }
    const std::vector<float> poisoned = problem.Attend(Ops());
    EXPECT_TRUE(SameBits(TensorView(poisoned.data(), {150, 8, 16}),
                         TensorView(clean.data(), {150, 8, 16})));
    for (size_t i = 150 * problem.query_size(); i < poisoned.size(); ++i)
      EXPECT_FALSE(std::isfinite(poisoned[i])) << i;
  }
}

TEST_P(PrefillAttentionTest, NanInOneQueryStaysInThatQuery) {
  Problem problem({1, 2, 8, 50}, 302);
  const std::vector<float> clean = problem.Attend(Ops());
  problem.q[20 * problem.query_size() + 3] = kNan;  // head 0 of query 20
  const std::vector<float> poisoned = problem.Attend(Ops());
  for (size_t i = 0; i < clean.size(); ++i) {
    if (i / 8 == 20 * 2) {
      EXPECT_TRUE(std::isnan(poisoned[i])) << i;
    } else {
      EXPECT_EQ(poisoned[i], clean[i]) << i;
    }
  }
}

TEST_P(PrefillAttentionTest, ZeroQueriesAverageTheValuesTheySee) {
  Problem problem({1, 1, 8, 140}, 303);
  std::fill(problem.q.begin(), problem.q.end(), 0.0f);
  for (int64_t t = 0; t < 140; ++t)
    std::fill_n(problem.v.begin() + t * 8, 8, static_cast<float>(t));
  const std::vector<float> out = problem.Attend(Ops());
  for (int64_t t = 0; t < 140; ++t) EXPECT_NEAR(out[t * 8], t / 2.0f, 1e-4f) << t;
}

TEST_P(PrefillAttentionTest, LargeScoresDoNotOverflow) {
  const Problem problem({1, 4, 16, 200}, 304, /*q_scale=*/1e4f);
  problem.ExpectMatchesDefinition(Ops(), 0, 200);
  for (const float x : problem.Attend(Ops())) EXPECT_TRUE(std::isfinite(x));
}

TEST_P(PrefillAttentionTest, ScoreOfMinusInfinityHasNoWeight) {
  Problem problem({1, 1, 8, 6}, 305);
  std::fill(problem.q.begin(), problem.q.end(), 1.0f);
  std::fill_n(problem.k.begin(), 3 * 8, -kInfinity);  // tokens 0, 1, 2
  const std::vector<float> out = problem.Attend(Ops());
  for (int64_t i = 0; i < 3 * 8; ++i) EXPECT_EQ(out[i], 0.0f) << i;  // nothing to see
  for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(out[3 * 8 + i], problem.v[3 * 8 + i]);
}

TEST_P(PrefillAttentionTest, KeysPastTheChunkAreNotRead) {
  // n_keys may exceed first_position + n_queries: the rest is storage not yet written.
  Problem problem({1, 2, 8, 64}, 306);
  const std::vector<float> clean = problem.Attend(Ops(), 0, 10);
  std::fill(problem.k.begin() + 10 * 8, problem.k.end(), kNan);
  std::fill(problem.v.begin() + 10 * 8, problem.v.end(), kNan);
  const std::vector<float> poisoned = problem.Attend(Ops(), 0, 10);
  EXPECT_TRUE(SameBits(problem.View(poisoned), problem.View(clean)));
}

// Every unit that this CPU has, each by name.
class PrefillAttentionBf16Test : public testing::TestWithParam<cpu::Bf16UnitKind> {
 protected:
  void SetUp() override {
    if (unit() == nullptr)
      GTEST_SKIP() << "this CPU does not offer " << cpu::Bf16UnitName(GetParam());
  }
  const cpu::Bf16Tile* unit() const { return cpu::FindBf16Tile(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Units, PrefillAttentionBf16Test,
                         testing::Values(cpu::Bf16UnitKind::kAvx512Bf16, cpu::Bf16UnitKind::kAmx),
                         [](const auto& kind) { return cpu::Bf16UnitName(kind.param); });

TEST_P(PrefillAttentionBf16Test, IsWithinBf16RoundingOfTheDefinitionOnAllTinyShapes) {
  uint32_t seed = 400;
  for (const int64_t head_dim : {1, 8, 10, 16, 33, 40})
    for (const int64_t group : {1, 2, 3, 16})
      for (int64_t n_keys = 1; n_keys <= 9; ++n_keys)
        Problem({2, group, head_dim, n_keys}, seed++)
            .ExpectBf16MatchesDefinition(*unit(), 0, n_keys);
}

TEST_P(PrefillAttentionBf16Test, IsWithinBf16RoundingAroundTileEdgesAndOnHeadsOfRealModels) {
  const int64_t tile = cpu::kPrefillTileKeysBf16;
  uint32_t seed = 700;
  for (const int64_t n_keys : {tile - 1, tile, tile + 1, 2 * tile + 17})
    for (const int64_t n : {int64_t{1}, int64_t{5}, int64_t{70}})
      Problem({2, 4, 16, n_keys}, seed++).ExpectBf16MatchesDefinition(*unit(), n_keys - n, n);
  Problem({2, 4, 128, 700}, 801).ExpectBf16MatchesDefinition(*unit(), 600, 100);
  Problem({1, 2, 64, 530}, 802).ExpectBf16MatchesDefinition(*unit(), 0, 530);
  Problem({1, 3, 96, 150}, 803).ExpectBf16MatchesDefinition(*unit(), 50, 100);
  Problem({1, 1, 256, 300}, 804).ExpectBf16MatchesDefinition(*unit(), 0, 300);
  Problem({2, 2, 16, 300}, 805, /*q_scale=*/1e4f).ExpectBf16MatchesDefinition(*unit(), 0, 300);
}

TEST_P(PrefillAttentionBf16Test, AQueryHasTheSameBitsInEveryChunkAndOnAnyNumberOfThreads) {
  const Problem problem({2, 4, 40, 600}, 806);
  const std::vector<float> all = problem.RunBf16(*unit(), 0, 600);
  for (const int threads : {1, 3, 16})
    EXPECT_TRUE(
        SameBits(problem.View(problem.RunBf16(*unit(), 0, 600, threads)), problem.View(all)));
  for (const auto& [first, n] : {std::pair{0, 1}, {37, 90}, {599, 1}, {255, 2}, {128, 400}}) {
    const std::vector<float> chunk = problem.RunBf16(*unit(), first, n);
    EXPECT_TRUE(SameBits(problem.View(chunk),
                         TensorView(all.data() + first * problem.query_size(), {n, 8, 40})))
        << first << " " << n;
  }
}

TEST_P(PrefillAttentionBf16Test, NanAndInfinityInLaterTokensDoNotLeak) {
  // 3.4e38 is finite in F32 and infinite in BF16.
  for (const float poison : {kNan, kInfinity, 3.4e38f}) {
    Problem problem({2, 4, 16, 300}, 807);
    const std::vector<float> clean = problem.RunBf16(*unit(), 0, 300);
    for (const int64_t token : {int64_t{150}, int64_t{151}, int64_t{299}}) {
      std::fill_n(problem.k.begin() + token * problem.key_size(), problem.key_size(), poison);
      std::fill_n(problem.v.begin() + token * problem.key_size(), problem.key_size(), poison);
    }
    const std::vector<float> poisoned = problem.RunBf16(*unit(), 0, 300);
    EXPECT_TRUE(SameBits(TensorView(poisoned.data(), {150, 8, 16}),
                         TensorView(clean.data(), {150, 8, 16})));
    for (size_t i = 150 * problem.query_size(); i < poisoned.size(); ++i)
      EXPECT_FALSE(std::isfinite(poisoned[i])) << i;
  }
}

TEST_P(PrefillAttentionBf16Test, NanInOneQueryStaysInThatQuery) {
  Problem problem({1, 2, 8, 50}, 808);
  const std::vector<float> clean = problem.RunBf16(*unit(), 0, 50);
  problem.q[20 * problem.query_size() + 3] = kNan;  // head 0 of query 20
  const std::vector<float> poisoned = problem.RunBf16(*unit(), 0, 50);
  for (size_t i = 0; i < clean.size(); ++i) {
    if (i / 8 == 20 * 2) {
      EXPECT_TRUE(std::isnan(poisoned[i])) << i;
    } else {
      EXPECT_EQ(poisoned[i], clean[i]) << i;
    }
  }
}

TEST_P(PrefillAttentionBf16Test, ScoreOfMinusInfinityHasNoWeight) {
  Problem problem({1, 1, 8, 6}, 809);
  std::fill(problem.q.begin(), problem.q.end(), 1.0f);
  std::fill_n(problem.k.begin(), 3 * 8, -kInfinity);  // tokens 0, 1, 2
  const std::vector<float> out = problem.RunBf16(*unit(), 0, 6);
  for (int64_t i = 0; i < 3 * 8; ++i) EXPECT_EQ(out[i], 0.0f) << i;  // nothing to see
  for (int64_t i = 0; i < 8; ++i)
    EXPECT_EQ(out[3 * 8 + i], cpu::Bf16ToFloat(cpu::FloatToBf16(problem.v[3 * 8 + i])));
}

TEST(PrefillAttentionDeathTest, TooFewKeysAbort) {
  std::vector<float> x(64);
  PrefillAttentionArgs args;
  args.q = TensorView(x.data(), {2, 1, 8});
  args.k = TensorView(x.data(), {2, 1, 8});
  args.v = TensorView(x.data(), {2, 1, 8});
  args.out = MutableTensorView(x.data(), {2, 1, 8});
  args.scale = 1;
  args.first_position = 1;
  EXPECT_DEATH(PrefillAttention(args, Stream::Cpu(1)), "first_position");
}

}  // namespace
}  // namespace lexico::kernels

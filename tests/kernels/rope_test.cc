// RotateAndSplit against its definition, on every device.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/api/elementwise.h"
#include "kernels/api/rows.h"
#include "kernels/cpu/elementwise_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/device_ops.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::DeviceArray;
using tests::IsClose;
using tests::RandomNormal;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Split {
  std::vector<float> q;
  std::vector<float> k;
  std::vector<float> v;
  bool operator==(const Split&) const = default;
};

struct Problem {
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  std::vector<int32_t> positions;
  std::vector<float> qkv;
  std::vector<float> bias;  // or empty

  static Problem Random(int n_heads, int n_kv_heads, int head_dim, std::vector<int32_t> positions,
                        bool biased, std::mt19937& random) {
    Problem problem{n_heads, n_kv_heads, head_dim, std::move(positions), {}, {}};
    problem.qkv = RandomNormal(problem.n_rows() * problem.width(), random);
    if (biased) problem.bias = RandomNormal(problem.width(), random, 3.0f);
    return problem;
  }
  int64_t n_rows() const { return static_cast<int64_t>(positions.size()); }
  int64_t width() const { return (n_heads + 2LL * n_kv_heads) * head_dim; }
  std::vector<double> inv_frequency() const {
    std::vector<double> frequencies(head_dim / 2);
    for (int i = 0; i < head_dim / 2; ++i) frequencies[i] = std::pow(10000.0, -2.0 * i / head_dim);
    return frequencies;
  }
  Split Empty() const {
    const auto n_q = static_cast<size_t>(n_rows() * n_heads * head_dim);
    const auto n_kv = static_cast<size_t>(n_rows() * n_kv_heads * head_dim);
    return {std::vector<float>(n_q, kNan), std::vector<float>(n_kv, kNan),
            std::vector<float>(n_kv, kNan)};
  }
  // Everything but the arrays.
  RopeArgs Args() const {
    return {.n_heads = n_heads, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
  }

  Split Solve(const Stream& stream) const {
    const Split poisoned = Empty();
    const DeviceArray<float> q(poisoned.q, stream);
    const DeviceArray<float> k(poisoned.k, stream);
    const DeviceArray<float> v(poisoned.v, stream);
    Rotate(stream, q, k, v, [&](const RopeArgs& args) { RotateAndSplit(args, stream); });
    return {q.Values(), k.Values(), v.Values()};
  }

  // Calls op with the arguments on the device.
  template <typename Op>
  void Rotate(const Stream& stream, const DeviceArray<float>& q, const DeviceArray<float>& k,
              const DeviceArray<float>& v, const Op& op) const {
    const DeviceArray<float> x(qkv, stream);
    const DeviceArray<float> b(bias, stream);
    const DeviceArray<int32_t> p(positions, stream);
    const DeviceArray<double> f(inv_frequency(), stream);
    RopeArgs args = Args();
    args.qkv = x.View({n_rows(), width()});
    args.bias = b.data();
    args.positions = p.data();
    args.inv_frequency = f.data();
    args.q = q.View({n_rows(), n_heads, head_dim});
    args.k = k.View({n_rows(), n_kv_heads, head_dim});
    args.v = v.View({n_rows(), n_kv_heads, head_dim});
    op(args);
    stream.Synchronize();
  }

  Split Define(Split* magnitude) const {
    Split out = Empty();
    *magnitude = Empty();
    const std::vector<double> frequencies = inv_frequency();
    RopeArgs args = Args();
    args.qkv = TensorView(qkv.data(), {n_rows(), width()});
    args.bias = bias.empty() ? nullptr : bias.data();
    args.positions = positions.data();
    args.inv_frequency = frequencies.data();
    args.q = MutableTensorView(out.q.data(), {n_rows(), n_heads, head_dim});
    args.k = MutableTensorView(out.k.data(), {n_rows(), n_kv_heads, head_dim});
    args.v = MutableTensorView(out.v.data(), {n_rows(), n_kv_heads, head_dim});
    cpu::definition::RotateAndSplit(
        args, {magnitude->q.data(), magnitude->k.data(), magnitude->v.data()});
    return out;
  }
};

testing::AssertionResult Near(const std::vector<float>& actual, const std::vector<float>& expected,
                              const std::vector<float>& magnitude) {
  const auto n = static_cast<int64_t>(actual.size());
  return IsClose(TensorView(actual.data(), {n}), TensorView(expected.data(), {n}),
                 TensorView(magnitude.data(), {n}), 2.5);
}

class RopeTest : public tests::DeviceTest {
 protected:
  Stream WithThreads(int threads) const { return on_gpu() ? stream() : Stream::Cpu(threads); }
};
LEXICO_TEST_ON_ALL_DEVICES(RopeTest);

TEST_P(RopeTest, MatchesDefinitionAtSmallAndLargePositions) {
  std::mt19937 random(2);
  for (const bool biased : {false, true}) {
    for (const int head_dim : {2, 8, 10, 64, 128, 256}) {
      SCOPED_TRACE(fmt::format("head_dim {} biased {}", head_dim, biased));
      const Problem problem = Problem::Random(
          3, 2, head_dim, {0, 1, 2, 63, 64, 65, 5, 131071, 131072, 16383, 1}, biased, random);
      Split magnitude;
      const Split expected = problem.Define(&magnitude);
      const Split actual = problem.Solve(WithThreads(2));
      EXPECT_TRUE(Near(actual.q, expected.q, magnitude.q));
      EXPECT_TRUE(Near(actual.k, expected.k, magnitude.k));
      EXPECT_TRUE(Near(actual.v, expected.v, magnitude.v));
    }
  }
}

TEST_P(RopeTest, ValuesAreNotRotated) {
  std::mt19937 random(4);
  const Problem problem = Problem::Random(1, 1, 8, {7}, false, random);
  const Split actual = problem.Solve(stream());
  EXPECT_EQ(actual.v, std::vector<float>(problem.qkv.begin() + 16, problem.qkv.end()));
}

TEST_P(RopeTest, ARowHasTheSameBitsAloneAndOnAnyNumberOfThreads) {
  std::mt19937 random(3);
  std::vector<int32_t> positions(700);
  for (int i = 0; i < 700; ++i) positions[i] = 1000 + i;
  const Problem all = Problem::Random(2, 1, 64, positions, true, random);
  const Split together = all.Solve(WithThreads(1));
  EXPECT_EQ(all.Solve(WithThreads(3)), together);
  Problem one = all;
  one.positions = {1077};
  one.qkv.assign(all.qkv.begin() + 77 * all.width(), all.qkv.begin() + 78 * all.width());
  const Split alone = one.Solve(stream());
  EXPECT_EQ(alone.q,
            std::vector<float>(together.q.begin() + 77 * 128, together.q.begin() + 78 * 128));
  EXPECT_EQ(alone.k,
            std::vector<float>(together.k.begin() + 77 * 64, together.k.begin() + 78 * 64));
  EXPECT_EQ(alone.v,
            std::vector<float>(together.v.begin() + 77 * 64, together.v.begin() + 78 * 64));
}

TEST_P(RopeTest, NanStaysInItsPair) {
  std::mt19937 random(5);
  Problem problem = Problem::Random(2, 1, 8, {3, 4}, false, random);
  problem.qkv[8 + 1] = kNan;  // row 0, query head 1, component 1
  const Split actual = problem.Solve(stream());
  for (size_t i = 0; i < actual.q.size(); ++i) {
    EXPECT_EQ(std::isnan(actual.q[i]), i == 9 || i == 13) << i;
  }
  for (const float x : actual.k) EXPECT_TRUE(std::isfinite(x));
  for (const float x : actual.v) EXPECT_TRUE(std::isfinite(x));
}

// Rows of one memory, in an order of their own; a table of their addresses.
struct RowMemory {
  RowMemory(int64_t n_rows, size_t row_bytes, const Stream& stream)
      : memory(std::vector<uint8_t>(n_rows * row_bytes, 0xee), stream),
        table(Addresses(n_rows, row_bytes), stream) {}
  std::vector<void*> Addresses(int64_t n, size_t row_bytes) const {
    std::vector<void*> addresses(n);
    for (int64_t i = 0; i < n; ++i) addresses[i] = memory.data() + (n - 1 - i) * row_bytes;
    return addresses;
  }
  DeviceArray<uint8_t> memory;
  DeviceArray<void*> table;
};

TEST_P(RopeTest, StoringGivesTheBitsOfTwoOps) {
  std::mt19937 random(6);
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    Problem problem = Problem::Random(4, 2, 64, {3, 0, 77, 1000, 5}, true, random);
    const int64_t n = problem.n_rows();
    const int64_t row_dim = 2 * 64;
    const int64_t k_begin = 4 * 64;
    problem.qkv[1 * problem.width() + k_begin + 70] = kNan;  // a key of row 1
    problem.qkv[2 * problem.width() + k_begin + row_dim] =
        std::numeric_limits<float>::infinity();                        // a value of row 2
    problem.qkv[4 * problem.width() + k_begin + row_dim + 3] = -kNan;  // both of row 4
    problem.qkv[4 * problem.width() + k_begin] = kNan;
    const Split split = problem.Solve(stream());
    const DeviceArray<float> k(split.k, stream());
    const DeviceArray<float> v(split.v, stream());
    const size_t row_bytes = row_dim * DTypeBytes(type);
    const RowMemory k_rows[] = {{n, row_bytes, stream()}, {n, row_bytes, stream()}};
    const RowMemory v_rows[] = {{n, row_bytes, stream()}, {n, row_bytes, stream()}};
    const auto rows_of = [&](int i, const DeviceArray<int32_t>& flags) -> StoreRowsArgs {
      return {.k = k.View({n, row_dim}),
              .v = v.View({n, row_dim}),
              .k_rows = k_rows[i].table.data(),
              .v_rows = v_rows[i].table.data(),
              .type = type,
              .non_finite = flags.data()};
    };
    const DeviceArray<int32_t> expected(std::vector<int32_t>(n, 77), stream());
    StoreRows(rows_of(0, expected), stream());
    const DeviceArray<int32_t> actual(std::vector<int32_t>(n, 0), stream());
    const DeviceArray<float> q(problem.Empty().q, stream());
    problem.Rotate(stream(), q, k, v, [&](const RopeArgs& args) {
      RotateAndStore(args, rows_of(1, actual), stream());
    });
    EXPECT_EQ(q.Values(), split.q);
    EXPECT_EQ(k_rows[1].memory.Values(), k_rows[0].memory.Values()) << DTypeName(type);
    EXPECT_EQ(v_rows[1].memory.Values(), v_rows[0].memory.Values()) << DTypeName(type);
    EXPECT_EQ(actual.Values(), expected.Values());
    EXPECT_EQ(actual.Values(), (std::vector<int32_t>{0, kNonFiniteKey, kNonFiniteValue, 0,
                                                     kNonFiniteKey | kNonFiniteValue}));
  }
}

TEST(RopeDeathTest, RejectsMalformedArguments) {
  std::vector<float> x(4 * 8);
  const std::vector<double> frequencies(4);
  const std::vector<int32_t> positions = {-1};
  RopeArgs args;
  args.qkv = TensorView(x.data(), {1, 32});
  args.n_heads = 2;
  args.n_kv_heads = 1;
  args.head_dim = 8;
  args.positions = positions.data();
  args.inv_frequency = frequencies.data();
  args.q = MutableTensorView(x.data(), {1, 2, 8});
  args.k = MutableTensorView(x.data(), {1, 1, 8});
  args.v = MutableTensorView(x.data(), {1, 1, 8});
  EXPECT_DEATH(RotateAndSplit(args, Stream::Cpu(1)), "positions\\[row\\] \\(-1\\)");
  args.n_heads = 3;
  EXPECT_DEATH(RotateAndSplit(args, Stream::Cpu(1)), "args.qkv.dim\\(1\\) \\(32\\)");
  args.head_dim = 7;
  EXPECT_DEATH(RotateAndSplit(args, Stream::Cpu(1)), "head_dim % 2");
  StoreRowsArgs rows;
  rows.k = TensorView(x.data() + 8, {0, 8});
  rows.v = TensorView(x.data(), {0, 8});
  EXPECT_DEATH(RotateAndStore(args, rows, Stream::Cpu(1)), "rows.k.data");
}

}  // namespace
}  // namespace lexico::kernels

// PrefillAttention on the tensor cores of a GPU, against its definition and against itself.
// tests/kernels/prefill_attention_test.cc has what holds in F32 on every device. Inputs come from a
// seed that every failure prints.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
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

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Types of keys and values, and of queries and outputs.
struct Types {
  DType kv;
  DType q;
  DType out;

  std::string Text() const {
    return fmt::format("{}{}{}", DTypeName(kv), DTypeName(q), DTypeName(out));
  }
  DType product() const { return kv == DType::kF32 ? DType::kBF16 : kv; }
};

// Numbers as F32, all of them values of `type`, and their bytes in it.
struct Array {
  std::vector<float> values;
  std::vector<uint8_t> bytes;
  DType type = DType::kF32;

  void Set(size_t i, float value, DType rounded_to) {
    float x = value;
    if (rounded_to == DType::kBF16) x = cpu::Bf16ToFloat(cpu::FloatToBf16(value));
    if (rounded_to == DType::kF16) x = cpu::F16ToFloat(cpu::FloatToF16(value));
    values[i] = x;
    if (type == DType::kF32) reinterpret_cast<float*>(bytes.data())[i] = x;
    auto* narrow = reinterpret_cast<uint16_t*>(bytes.data());
    if (type == DType::kBF16) narrow[i] = cpu::FloatToBf16(x);
    if (type == DType::kF16) narrow[i] = cpu::FloatToF16(x);
  }
};

struct Shape {
  int64_t n_kv_heads = 1;
  int64_t group = 1;
  int64_t head_dim = 8;
  int64_t n_keys = 1;
};

// Inputs are values of the type of the products already: what is left is the rounding of weights.
class Problem {
 public:
  Problem(const Types& types, const Shape& shape, uint32_t seed, float q_scale = 1.0f)
      : types_(types), shape_(shape) {
    std::mt19937 random(seed);
    Fill(q, types.q, RandomNormal(shape.n_keys * query_size(), random, q_scale));
    Fill(k, types.kv, RandomNormal(shape.n_keys * key_size(), random));
    Fill(v, types.kv, RandomNormal(shape.n_keys * key_size(), random));
  }

  int64_t query_size() const { return shape_.n_kv_heads * shape_.group * shape_.head_dim; }
  int64_t key_size() const { return shape_.n_kv_heads * shape_.head_dim; }

  void SetToken(Array& of, int64_t token, float to) {
    for (int64_t i = 0; i < key_size(); ++i) of.Set(token * key_size() + i, to, types_.product());
  }

  // Outputs of queries [first, first + n), in the type of the outputs.
  std::vector<uint8_t> Attend(const DeviceOps& ops, int64_t first, int64_t n) const {
    std::vector<uint8_t> out(n * query_size() * DTypeBytes(types_.out), 0xff);
    const int64_t n_heads = shape_.n_kv_heads * shape_.group;
    PrefillAttentionArgs args = Args(first, n);
    args.q = TensorView(q.bytes.data() + first * query_size() * DTypeBytes(types_.q), types_.q,
                        {n, n_heads, shape_.head_dim});
    args.k.data = k.bytes.data();
    args.v.data = v.bytes.data();
    args.k.dtype = args.v.dtype = types_.kv;
    args.out = MutableTensorView(out.data(), types_.out, {n, n_heads, shape_.head_dim});
    ops.PrefillAttention(args);
    return out;
  }
  std::vector<float> AttendF32(const DeviceOps& ops, int64_t first, int64_t n) const {
    const std::vector<uint8_t> out = Attend(ops, first, n);
    std::vector<float> wide(n * query_size());
    for (size_t i = 0; i < wide.size(); ++i) {
      wide[i] = cpu::LoadFloat(out.data(), types_.out, static_cast<int64_t>(i));
    }
    return wide;
  }

  void ExpectMatchesDefinition(const DeviceOps& ops, int64_t first, int64_t n) const {
    SCOPED_TRACE(fmt::format("n_kv_heads {} group {} head_dim {} n_keys {} queries {} .. {}",
                             shape_.n_kv_heads, shape_.group, shape_.head_dim, shape_.n_keys, first,
                             first + n));
    std::vector<float> expected(n * query_size());
    std::vector<float> magnitude(expected.size());
    PrefillAttentionArgs args = Args(first, n);
    const int64_t n_heads = shape_.n_kv_heads * shape_.group;
    args.out = MutableTensorView(expected.data(), {n, n_heads, shape_.head_dim});
    cpu::definition::PrefillAttention(
        args, MutableTensorView(magnitude.data(), {static_cast<int64_t>(magnitude.size())}));
    const std::vector<float> actual = AttendF32(ops, first, n);
    const auto view = [&](const std::vector<float>& x) {
      return TensorView(x.data(), {n, n_heads, shape_.head_dim});
    };
    // A weight, and an output of that type, are off by 2^-9 of themselves in BF16, 2^-12 in F16;
    // an epsilon of F32 is 2^-23.
    const double ulps = types_.product() == DType::kBF16 ? 1 << 15 : 1 << 12;
    EXPECT_TRUE(IsClose(view(actual), view(expected), view(magnitude), ulps));
  }

  Array q;
  Array k;
  Array v;

 private:
  void Fill(Array& array, DType type, const std::vector<float>& values) const {
    array.type = type;
    array.values.resize(values.size());
    array.bytes.resize(values.size() * DTypeBytes(type));
    for (size_t i = 0; i < values.size(); ++i) array.Set(i, values[i], types_.product());
  }

  // In F32, for the definition.
  PrefillAttentionArgs Args(int64_t first, int64_t n) const {
    PrefillAttentionArgs args;
    args.q = TensorView(q.values.data() + first * query_size(),
                        {n, shape_.n_kv_heads * shape_.group, shape_.head_dim});
    args.k = TensorView(k.values.data(), {shape_.n_keys, shape_.n_kv_heads, shape_.head_dim});
    args.v = TensorView(v.values.data(), {shape_.n_keys, shape_.n_kv_heads, shape_.head_dim});
    args.first_position = first;
    args.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    return args;
  }

  Types types_;
  Shape shape_;
};

class PrefillAttentionGpuTest : public testing::TestWithParam<Types> {
 protected:
  void SetUp() override {
    const absl::StatusOr<Stream>& gpu = tests::GpuStream();
    if (!gpu.ok()) GTEST_SKIP() << gpu.status().message();
  }
  static DeviceOps Ops() { return DeviceOps(*tests::GpuStream()); }
  Problem Make(const Shape& shape, uint32_t seed, float q_scale = 1.0f) const {
    return Problem(GetParam(), shape, seed, q_scale);
  }
};

INSTANTIATE_TEST_SUITE_P(Types, PrefillAttentionGpuTest,
                         testing::Values(Types{DType::kBF16, DType::kF32, DType::kF32},
                                         Types{DType::kBF16, DType::kBF16, DType::kBF16},
                                         Types{DType::kF16, DType::kF16, DType::kF32},
                                         Types{DType::kF16, DType::kF32, DType::kF16},
                                         Types{DType::kF32, DType::kF32, DType::kF32}),
                         [](const auto& types) { return types.param.Text(); });

TEST_P(PrefillAttentionGpuTest, MatchesDefinitionOnAllTinyShapes) {
  uint32_t seed = 1;
  for (const int64_t head_dim : {8, 16, 40})
    for (const int64_t group : {1, 3, 16})
      for (const int64_t n_keys : {1, 2, 3, 5, 8, 9})
        Make({2, group, head_dim, n_keys}, seed++).ExpectMatchesDefinition(Ops(), 0, n_keys);
}

TEST_P(PrefillAttentionGpuTest, MatchesDefinitionAroundTileEdgesAndOnHeadsOfRealModels) {
  uint32_t seed = 100;
  for (const int64_t n_keys : {63, 64, 65, 127, 128, 129, 200})
    for (const int64_t n : {1, 5, 60}) {
      Make({2, 2, 16, n_keys}, seed++).ExpectMatchesDefinition(Ops(), n_keys - n, n);
    }
  Make({2, 4, 128, 400}, 201).ExpectMatchesDefinition(Ops(), 250, 150);
  Make({1, 2, 64, 330}, 202).ExpectMatchesDefinition(Ops(), 0, 330);
  Make({1, 3, 96, 150}, 203).ExpectMatchesDefinition(Ops(), 50, 100);
  Make({1, 2, 256, 200}, 204).ExpectMatchesDefinition(Ops(), 0, 200);
  Make({2, 2, 16, 300}, 205, /*q_scale=*/1e3f).ExpectMatchesDefinition(Ops(), 0, 300);
}

TEST_P(PrefillAttentionGpuTest, AQueryHasTheSameBitsInEveryChunk) {
  for (const int64_t head_dim : {40, 128, 256}) {
    const Problem problem = Make({2, 2, head_dim, 400}, 300);
    const std::vector<uint8_t> all = problem.Attend(Ops(), 0, 400);
    const size_t row_bytes = all.size() / 400;
    for (const auto& [first, n] : {std::pair{0, 1}, {37, 90}, {399, 1}, {255, 2}, {128, 272}}) {
      const std::vector<uint8_t> chunk = problem.Attend(Ops(), first, n);
      EXPECT_TRUE(std::equal(chunk.begin(), chunk.end(), all.begin() + first * row_bytes))
          << head_dim << " " << first << " " << n;
    }
  }
}

TEST_P(PrefillAttentionGpuTest, NanAndInfinityInLaterTokensDoNotLeak) {
  for (const int64_t head_dim : {16, 128, 256})
    for (const float poison : {kNan, kInfinity, -kInfinity}) {
      Problem problem = Make({2, 2, head_dim, 300}, 301);
      const std::vector<uint8_t> clean = problem.Attend(Ops(), 0, 150);
      for (const int64_t token : {150, 151, 299}) {
        problem.SetToken(problem.k, token, poison);
        problem.SetToken(problem.v, token, poison);
      }
      const std::vector<uint8_t> poisoned = problem.Attend(Ops(), 0, 300);
      EXPECT_TRUE(std::equal(clean.begin(), clean.end(), poisoned.begin()));
      const std::vector<float> later = problem.AttendF32(Ops(), 150, 150);
      for (size_t i = 0; i < later.size(); ++i) ASSERT_FALSE(std::isfinite(later[i])) << i;
    }
}

TEST_P(PrefillAttentionGpuTest, NonFiniteValuesReachEveryQueryThatSeesThem) {
  Problem problem = Make({1, 2, 64, 200}, 302);
  for (int64_t token : {70, 71}) problem.SetToken(problem.v, token, kInfinity);
  const std::vector<float> out = problem.AttendF32(Ops(), 0, 200);
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(std::isinf(out[i]), static_cast<int64_t>(i) >= 70 * problem.query_size()) << i;
  }
}

TEST_P(PrefillAttentionGpuTest, NanInOneQueryStaysInThatQuery) {
  Problem problem = Make({1, 2, 8, 50}, 303);
  const std::vector<float> clean = problem.AttendF32(Ops(), 0, 50);
  problem.q.Set(20 * problem.query_size() + 3, kNan, DType::kF32);  // head 0 of query 20
  const std::vector<float> poisoned = problem.AttendF32(Ops(), 0, 50);
  for (size_t i = 0; i < clean.size(); ++i) {
    if (i / 8 == 20 * 2) {
      EXPECT_TRUE(std::isnan(poisoned[i])) << i;
    } else {
      EXPECT_EQ(poisoned[i], clean[i]) << i;
    }
  }
}

TEST_P(PrefillAttentionGpuTest, ScoreOfMinusInfinityHasNoWeight) {
  Problem problem = Make({1, 1, 8, 6}, 304);
  for (size_t i = 0; i < problem.q.values.size(); ++i) problem.q.Set(i, 1.0f, DType::kF32);
  for (const int64_t token : {0, 1, 2}) problem.SetToken(problem.k, token, -kInfinity);
  const std::vector<float> out = problem.AttendF32(Ops(), 0, 6);
  for (int64_t i = 0; i < 3 * 8; ++i) EXPECT_EQ(out[i], 0.0f) << i;  // nothing to see
  for (int64_t i = 24; i < 32; ++i) EXPECT_EQ(out[i], problem.v.values[i]);
}

TEST_P(PrefillAttentionGpuTest, KeysPastTheChunkAreNotRead) {
  Problem problem = Make({1, 2, 8, 64}, 305);
  const std::vector<uint8_t> clean = problem.Attend(Ops(), 0, 10);
  for (int64_t token = 10; token < 64; ++token) {
    problem.SetToken(problem.k, token, kNan);
    problem.SetToken(problem.v, token, kNan);
  }
  EXPECT_EQ(problem.Attend(Ops(), 0, 10), clean);
}

}  // namespace
}  // namespace lexico::kernels

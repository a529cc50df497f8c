// The tensors of a model folder: one file or shards under an index.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_safetensors_writer.h"
#include "worker/model/safetensors.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::SafetensorsBytes;
using tests::SafetensorsWriter;
using tests::StatusIs;

class ModelWeightsTest : public testing::Test {
 protected:
  // Two shards, a in the first and b in the second, under an index with this weight_map.
  void WriteShards(std::string_view weight_map) {
    dir_.Write("s1.safetensors", SafetensorsWriter().AddF32("a", {2}, {1, 2}).Bytes());
    dir_.Write("s2.safetensors", SafetensorsWriter().AddF32("b", {1}, {3}).Bytes());
    dir_.Write("model.safetensors.index.json",
               fmt::format(R"({{"metadata":{{"total_size":12}},"weight_map":{}}})", weight_map));
  }
  void WriteSingle(const std::string& bytes) { dir_.Write("model.safetensors", bytes); }
  absl::StatusOr<ModelWeights> Open() { return ModelWeights::Open(dir_.path()); }

  tests::TempDir dir_;
};

TEST_F(ModelWeightsTest, FindsTensorsOfOneFile) {
  WriteSingle(SafetensorsWriter().AddF32("a", {2, 2}, {1, 2, 3, 4}).Bytes());
  const auto weights = Open();
  ASSERT_THAT(weights, IsOk());
  const auto a = weights->Find("a", {2, 2});
  ASSERT_THAT(a, IsOk());
  EXPECT_EQ(a->dtype, kernels::DType::kF32);
  EXPECT_EQ(a->as<float>()[3], 4);
  EXPECT_EQ(weights->Names(), std::vector<std::string>{"a"});
}

TEST_F(ModelWeightsTest, RefusesAbsentNameOtherShapeAndOtherTypeWithBothValues) {
  WriteSingle(SafetensorsWriter()
                  .AddF32("a", {2, 3}, {1, 2, 3, 4, 5, 6})
                  .Add("i", "I64", {1}, "01234567")
                  .Bytes());
  const auto weights = Open();
  ASSERT_THAT(weights, IsOk());
  EXPECT_THAT(weights->Find("z", {1}), StatusIs(StatusCode::kNotFound, "tensor z is missing"));
  EXPECT_THAT(
      weights->Find("a", {3, 2}),
      StatusIs(StatusCode::kInvalidArgument, "tensor a: shape is [2, 3], the model needs [3, 2]"));
  EXPECT_THAT(weights->Find("a", {6}),
              StatusIs(StatusCode::kInvalidArgument, "shape is [2, 3], the model needs [6]"));
  EXPECT_THAT(weights->Find("i", {1}),
              StatusIs(StatusCode::kInvalidArgument, "tensor i: dtype is I64"));
}

TEST_F(ModelWeightsTest, RefusesUnalignedTensors) {
  WriteSingle(
      SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "0123"));
  const auto weights = Open();
  ASSERT_THAT(weights, IsOk());
  EXPECT_THAT(weights->Find("a", {1}), StatusIs(StatusCode::kInvalidArgument, "not aligned"));
}

TEST_F(ModelWeightsTest, FindsTensorsAcrossShards) {
  WriteShards(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  const auto weights = Open();
  ASSERT_THAT(weights, IsOk());
  EXPECT_EQ(weights->Names(), (std::vector<std::string>{"a", "b"}));
  ASSERT_THAT(weights->Find("b", {1}), IsOk());
  EXPECT_EQ(weights->Find("b", {1})->as<float>()[0], 3);
}

TEST_F(ModelWeightsTest, FingerprintDependsOnTensorsAndNotOnFilesOrThreads) {
  WriteShards(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  const auto sharded = Open();
  ASSERT_THAT(sharded, IsOk());
  const auto of = [](SafetensorsWriter& writer) {
    return ModelWeights::FromFile(*SafetensorsFile::FromBytes("x", writer.Bytes()))
        .ComputeFingerprint(1);
  };
  // The other order in the file, metadata, and more threads change nothing.
  const base::Fingerprint same =
      of(SafetensorsWriter().Metadata("k", "v").AddF32("b", {1}, {3}).AddF32("a", {2}, {1, 2}));
  EXPECT_EQ(sharded->ComputeFingerprint(1), same);
  EXPECT_EQ(sharded->ComputeFingerprint(7), same);
  // A value, a name or a shape does.
  EXPECT_NE(same, of(SafetensorsWriter().AddF32("a", {2}, {1, 2.5}).AddF32("b", {1}, {3})));
  EXPECT_NE(same, of(SafetensorsWriter().AddF32("a", {2}, {1, 2}).AddF32("c", {1}, {3})));
  EXPECT_NE(same, of(SafetensorsWriter().AddF32("a", {1, 2}, {1, 2}).AddF32("b", {1}, {3})));
}

TEST_F(ModelWeightsTest, EmptyFolderSaysWhatIsMissing) {
  EXPECT_THAT(Open(), StatusIs(StatusCode::kNotFound,
                               "neither model.safetensors nor model.safetensors.index.json"));
}

TEST_F(ModelWeightsTest, RefusesIndexThatPointsOutsideTheFolder) {
  for (const char* place : {"\"../s2.safetensors\"", "\"/etc/passwd\"", "\"sub/s2.safetensors\"",
                            "\"..\"", "\"\"", "7", "null", "\"s\\u0000\""}) {
    WriteShards(fmt::format(R"({{"a":"s1.safetensors","b":{}}})", place));
    EXPECT_THAT(Open(), StatusIs(StatusCode::kInvalidArgument, "not the name of a file")) << place;
  }
}

TEST_F(ModelWeightsTest, RefusesIndexAndShardThatDisagree) {
  WriteShards(R"({"a":"s1.safetensors","b":"s1.safetensors"})");
  EXPECT_THAT(Open(),
              StatusIs(StatusCode::kInvalidArgument, "s1.safetensors: tensor b is missing"));
  WriteShards(R"({"b":"s2.safetensors","a":"s3.safetensors"})");
  EXPECT_THAT(Open(), StatusIs(StatusCode::kNotFound, "s3.safetensors"));
  dir_.Write("s3.safetensors",
             SafetensorsWriter().AddF32("a", {2}, {1, 2}).AddF32("b", {1}, {3}).Bytes());
  EXPECT_THAT(Open(), StatusIs(StatusCode::kInvalidArgument, "s3.safetensors: holds tensor b"));
}

TEST_F(ModelWeightsTest, RefusesIndexWithoutWeightMap) {
  dir_.Write("model.safetensors.index.json", "{}");
  EXPECT_THAT(Open(), StatusIs(StatusCode::kInvalidArgument, "weight_map must be an object"));
  WriteShards("{}");
  EXPECT_THAT(Open(), StatusIs(StatusCode::kInvalidArgument, "weight_map is empty"));
  dir_.Write("model.safetensors.index.json", "{\"weight_map\":");
  EXPECT_THAT(Open(), StatusIs(StatusCode::kDataLoss, "not JSON"));
}

TEST_F(ModelWeightsTest, TruncatedShardIsDataLossAndNamed) {
  WriteShards(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  const std::string good = tests::ReadFile(dir_.File("s2.safetensors"));
  dir_.Write("s2.safetensors", good.substr(0, good.size() - 1));
  EXPECT_THAT(Open(), StatusIs(StatusCode::kDataLoss, "s2.safetensors: tensor b: ends at byte 4"));
}

TEST_F(ModelWeightsTest, ANumberThatIsNotFiniteIsFoundWhereverItIs) {
  constexpr int kN = 5000;  // more than a piece of the search
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {inf, -inf, nan, -nan}) {
    for (const int at : {0, 1, 4095, 4096, kN - 1}) {
      std::vector<float> values(kN, -std::numeric_limits<float>::max());
      values[at] = bad;
      WriteSingle(SafetensorsWriter().AddF32("a", {1}, {0}).AddF32("b", {kN}, values).Bytes());
      const auto weights = Open();
      ASSERT_THAT(weights, IsOk());
      EXPECT_THAT(weights->CheckFinite(2),
                  StatusIs(StatusCode::kInvalidArgument,
                           fmt::format("tensor b: element {} of [5000] is not a finite", at)));
    }
  }
}

TEST_F(ModelWeightsTest, FiniteIsKnownOfEveryType) {
  const auto check = [&](const char* dtype, std::string_view bytes) {
    WriteSingle(SafetensorsWriter().Add("a", dtype, {2}, std::string(bytes)).Bytes());
    return Open()->CheckFinite(1);
  };
  using namespace std::string_view_literals;
  // The largest finite numbers, then the infinities, of either sign.
  EXPECT_THAT(check("BF16", "\x7f\x7f\x7f\xff"sv), IsOk());
  EXPECT_FALSE(check("BF16", "\x00\x00\x80\xff"sv).ok());
  EXPECT_THAT(check("F16", "\xff\x7b\xff\xfb"sv), IsOk());
  EXPECT_FALSE(check("F16", "\x00\x7c\x00\x00"sv).ok());
  EXPECT_THAT(check("I16", "\xff\xff\xff\x7f"sv), IsOk());
}

TEST_F(ModelWeightsTest, CountsItsBytes) {
  WriteShards(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  EXPECT_EQ(Open()->bytes(), 12u);
}

}  // namespace
}  // namespace lexico::worker

// A safetensors file is good, or refused: never a view outside the file, never a crash. Damage is
// tried at every byte.
#include <gtest/gtest.h>

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

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Parse(std::string bytes) {
  return SafetensorsFile::FromBytes("x.safetensors", std::move(bytes));
}

std::string SampleBytes() {
  return SafetensorsWriter()
      .Metadata("format", "pt")
      .AddF32("a", {2, 3}, {1, 2, 3, 4, 5, 6})
      .Add("b", "BF16", {4}, "01234567")
      .Add("empty", "F32", {0, 7}, "")
      .Add("scalar", "I64", {}, "abcdefgh")
      .Bytes();
}

TEST(SafetensorsTest, ReadsNamesShapesTypesBytesAndMetadata) {
  const auto file = Parse(SampleBytes());
  ASSERT_THAT(file, IsOk());
  const auto& tensors = (*file)->tensors();
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors.at("a").dtype, "F32");
  EXPECT_EQ(tensors.at("a").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensors.at("a").bytes.size(), 24u);
  const auto& b = tensors.at("b").bytes;
  EXPECT_EQ(std::string(b.begin(), b.end()), "01234567");
  EXPECT_TRUE(tensors.at("empty").bytes.empty());
  EXPECT_TRUE(tensors.at("scalar").shape.empty());
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
}

TEST(SafetensorsTest, EveryTruncationIsDataLoss) {
  const std::string good = SampleBytes();
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_THAT(Parse(good.substr(0, n)), StatusIs(StatusCode::kDataLoss, "x.safetensors: "))
        << n << " bytes";
  }
}

TEST(SafetensorsTest, TrailingBytesAreDataLoss) {
  EXPECT_THAT(Parse(SampleBytes() + "!"),
              StatusIs(StatusCode::kDataLoss, "end at byte 40 of the data, but the file holds 41"));
}

// A flipped bit of a name or of the data is another good file (the format has no checksum), so the
// property is that what is accepted lies inside the file and is as large as it says.
TEST(SafetensorsTest, EveryBitFlipIsRefusedOrStaysInsideTheFile) {
  const std::string good = SampleBytes();
  int n_refused = 0;
  for (size_t i = 0; i < good.size() * 8; ++i) {
    std::string bad = good;
    bad[i / 8] = static_cast<char>(bad[i / 8] ^ (1 << (i % 8)));
    const auto file = Parse(bad);
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), StatusCode::kDataLoss) << file.status();
      ++n_refused;
      continue;
    }
    size_t total = 0;
    for (const auto& [name, tensor] : (*file)->tensors()) total += tensor.bytes.size();
    EXPECT_EQ(total, 40u) << "bit " << i;
  }
  EXPECT_GT(n_refused, 1000);
}

// Each header below breaks one rule; the message names the tensor and what is wrong.
struct BadHeader {
  const char* header;
  const char* message;
};

class SafetensorsBadHeaderTest : public testing::TestWithParam<BadHeader> {};

TEST_P(SafetensorsBadHeaderTest, IsDataLossAndSaysWhy) {
  EXPECT_THAT(Parse(SafetensorsBytes(GetParam().header, std::string(16, 'x'))),
              StatusIs(StatusCode::kDataLoss, GetParam().message));
}

#define T(fields) "{\"t\":{" fields "}}"
INSTANTIATE_TEST_SUITE_P(
    Rules, SafetensorsBadHeaderTest,
    testing::Values(
        BadHeader{"", "not JSON at byte"}, BadHeader{"[]", "unexpected an array"},
        BadHeader{"7", "unexpected the number 7"}, BadHeader{"null", "unexpected null"},
        BadHeader{"{}", "end at byte 0 of the data, but the file holds 16"},
        BadHeader{"{\"t\":3}", "tensor t: unexpected the number 3"},
        BadHeader{"{\"t\":{}}", "tensor t: dtype is missing"}, BadHeader{"{\"\":{}}", "empty name"},
        BadHeader{T(R"("dtype":"F32","data_offsets":[0,16])"), "tensor t: shape is missing"},
        BadHeader{T(R"("dtype":"F32","shape":[4])"), "tensor t: data_offsets is missing"},
        BadHeader{T(R"("dtype":"F31","shape":[4],"data_offsets":[0,16])"), "unknown dtype F31"},
        BadHeader{T(R"("dtype":4,"shape":[4],"data_offsets":[0,16])"), "unexpected the number 4"},
        BadHeader{T(R"("dtype":{"a":1})"), "unexpected an object"},
        BadHeader{T(R"("shape":[[4]])"), "unexpected an array"},
        BadHeader{T(R"("shape":4)"), "unexpected the number 4"},
        BadHeader{T(R"("shape":["4"])"), "unexpected a string"},
        BadHeader{T(R"("shape":[true])"), "unexpected a boolean"},
        BadHeader{T(R"("shape":[-4])"), "unexpected the number -4"},
        BadHeader{T(R"("shape":[4.0])"), "unexpected the number 4.0"},
        BadHeader{T(R"("shape":[18446744073709551615])"), "dimension 18446744073709551615"},
        BadHeader{T(R"("shape":[1,1,1,1,1,1,1,1,1])"), "more than 8 dimensions"},
        BadHeader{T(R"("extra":1)"), "unknown field extra"},
        BadHeader{T(R"("dtype":"F32","dtype":"F32")"), "dtype appears twice"},
        BadHeader{T(R"("dtype":"F32","shape":[4],"data_offsets":[0])"), "has 1 numbers"},
        BadHeader{T(R"("dtype":"F32","shape":[4],"data_offsets":[0,16,16])"), "more than 2"},
        BadHeader{T(R"("dtype":"F32","shape":[4],"data_offsets":[16,0])"), "end 0 is before"},
        BadHeader{T(R"("dtype":"F32","shape":[8],"data_offsets":[0,32])"),
                  "ends at byte 32 of the data, but the file holds 16"},
        BadHeader{T(R"("dtype":"F32","shape":[3],"data_offsets":[4,16])"), "begins at byte 4"},
        BadHeader{T(R"("dtype":"F32","shape":[5],"data_offsets":[0,16])"),
                  "F32 [5] takes 20 bytes, but data_offsets spans 16"},
        BadHeader{T(R"("dtype":"F4","shape":[3],"data_offsets":[0,16])"), "not whole bytes"},
        BadHeader{T(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16])"),
                  "overflows"},
        BadHeader{R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                  R"("t":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
                  "tensor t appears twice"},
        BadHeader{R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},)"
                  R"("u":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
                  "tensor u: begins at byte 8 of the data, but the tensor before it ends at 12"},
        BadHeader{R"({"__metadata__":{"a":1}})", "unexpected the number 1"},
        BadHeader{R"({"__metadata__":{"a":{}}})", "unexpected an object"},
        BadHeader{R"({"__metadata__":{"a":"1","a":"2"}})", "names a twice"},
        BadHeader{R"({"__metadata__":{},"__metadata__":{}})", "appears twice"},
        BadHeader{R"({"t":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}} x)", "not JSON"}));
#undef T

TEST(SafetensorsTest, HeaderLengthBeyondLimitIsRefusedBeforeItIsRead) {
  std::string bytes(64, '\0');
  bytes[7] = 0x7f;  // 2^62 and more
  EXPECT_THAT(Parse(bytes), StatusIs(StatusCode::kDataLoss, "more than the 104857600"));
}

TEST(SafetensorsTest, DeepNestingIsRefusedWithoutRecursion) {
  EXPECT_THAT(Parse(SafetensorsBytes(std::string(1 << 20, '['), "")),
              StatusIs(StatusCode::kDataLoss, "unexpected an array"));
}

TEST(SafetensorsTest, OpensAFileAndNamesItInErrors) {
  const tests::TempDir dir;
  EXPECT_THAT(SafetensorsFile::Open(dir.Write("good.safetensors", SampleBytes())), IsOk());
  EXPECT_THAT(SafetensorsFile::Open(dir.Write("bad.safetensors", "{}")),
              StatusIs(StatusCode::kDataLoss, dir.File("bad.safetensors")));
  EXPECT_THAT(SafetensorsFile::Open(dir.Write("empty.safetensors", "")),
              StatusIs(StatusCode::kDataLoss, "0 bytes, too short"));
  EXPECT_THAT(SafetensorsFile::Open(dir.File("none.safetensors")),
              StatusIs(StatusCode::kNotFound, dir.File("none.safetensors")));
  EXPECT_THAT(SafetensorsFile::Open(dir.path()),
              StatusIs(StatusCode::kInvalidArgument, "not a regular file"));
}

}  // namespace
}  // namespace lexico::worker

#include "kernels/api/device_buffer.h"

#include <gmock/gmock.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/api/growing_buffer.h"
#include "kernels/api/host_buffer.h"
#include "tests/kernels/device_ops.h"

namespace lexico::kernels {
namespace {

using testing::HasSubstr;

class DeviceBufferTest : public tests::DeviceTest {
 protected:
  DeviceBuffer Allocate(size_t bytes) const {
    auto buffer = DeviceBuffer::Allocate(bytes, stream());
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    return *std::move(buffer);
  }
};
LEXICO_TEST_ON_ALL_DEVICES(DeviceBufferTest);

TEST_P(DeviceBufferTest, GivesBackWhatWasCopiedIn) {
  const std::string text = "sixteen bytes ..";
  DeviceBuffer buffer = Allocate(text.size());
  buffer.CopyFrom(text.data(), text.size());
  std::string back(text.size(), '?');
  buffer.CopyTo(back.data(), back.size());
  EXPECT_EQ(back, text);
}

TEST_P(DeviceBufferTest, OffsetsPlaceParts) {
  DeviceBuffer buffer = Allocate(8);
  buffer.CopyFrom("abcdefgh", 8);
  buffer.CopyFrom("XY", 2, /*offset_bytes=*/3);
  std::string back(5, '?');
  buffer.CopyTo(back.data(), back.size(), /*offset_bytes=*/2);
  EXPECT_EQ(back, "cXYfg");
}

TEST_P(DeviceBufferTest, IsAlignedTo256Bytes) {
  for (const size_t bytes : {1, 300, 5000}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(Allocate(bytes).as<void>()) % 256, 0u) << bytes;
  }
}

TEST_P(DeviceBufferTest, MovesWithItsMemory) {
  DeviceBuffer from = Allocate(4);
  from.CopyFrom("1234", 4);
  DeviceBuffer to = Allocate(2);
  to = std::move(from);
  EXPECT_EQ(from.bytes(), 0u);
  EXPECT_EQ(from.as<void>(), nullptr);
  std::string back(4, '?');
  to.CopyTo(back.data(), 4);
  EXPECT_EQ(back, "1234");
}

TEST_P(DeviceBufferTest, NoBytesNeedNoMemory) {
  DeviceBuffer buffer = Allocate(0);
  EXPECT_EQ(buffer.as<void>(), nullptr);
  buffer.CopyFrom(nullptr, 0);
  buffer.CopyTo(nullptr, 0);
}

TEST_P(DeviceBufferTest, MoreThanThereIsIsRefusedWithTheNumber) {
  const auto buffer = DeviceBuffer::Allocate(size_t{1} << 60, stream());
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()), HasSubstr("1152921504606846976 bytes"));
  if (on_gpu()) {
    EXPECT_THAT(std::string(buffer.status().message()), HasSubstr("bytes free"));
  }
}

TEST_P(DeviceBufferTest, StreamsCopyAndZeroInTheOrderOfTheCalls) {
  auto host = HostBuffer::Allocate(8, stream());
  auto back = HostBuffer::Allocate(8, stream());
  ASSERT_TRUE(host.ok()) << host.status();
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(host->as<void>()) % 256, 0u);
  const DeviceBuffer buffer = Allocate(8);
  std::memcpy(host->as<char>(), "abcdefgh", 8);
  stream().UploadAsync(buffer.as<char>(), host->as<char>(), 8);
  stream().CopyWithin(buffer.as<char>(), buffer.as<char>() + 5, 2);
  stream().Zero(buffer.as<char>() + 6, 1);
  stream().DownloadAsync(back->as<char>(), buffer.as<char>(), 8);
  stream().Synchronize();
  EXPECT_EQ(std::string(back->as<char>(), 8), std::string("fgcdef\0h", 8));
}

TEST_P(DeviceBufferTest, UploadAndDownloadTakeAnyHostMemory) {
  const DeviceBuffer buffer = Allocate(4);
  stream().Upload(buffer.as<void>(), "wxyz", 4);
  std::string back(3, '?');
  stream().Download(back.data(), buffer.as<char>() + 1, 3);
  EXPECT_EQ(back, "xyz");
}

TEST_P(DeviceBufferTest, NoBytesAreNoCopy) {
  stream().Upload(nullptr, nullptr, 0);
  stream().Download(nullptr, nullptr, 0);
  stream().UploadAsync(nullptr, nullptr, 0);
  stream().DownloadAsync(nullptr, nullptr, 0);
  stream().CopyWithin(nullptr, nullptr, 0);
  stream().Zero(nullptr, 0);
  EXPECT_TRUE(HostBuffer::Allocate(0, stream()).ok());
}

TEST_P(DeviceBufferTest, MoreHostMemoryThanThereIsIsRefusedWithTheNumber) {
  const auto buffer = HostBuffer::Allocate(size_t{1} << 60, stream());
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()), HasSubstr("1152921504606846976 bytes"));
}

TEST_P(DeviceBufferTest, HostBuffersMoveWithTheirMemory) {
  auto from = HostBuffer::Allocate(4, stream());
  auto to = HostBuffer::Allocate(2, stream());
  ASSERT_TRUE(from.ok());
  ASSERT_TRUE(to.ok());
  std::memcpy(from->as<char>(), "1234", 4);
  *to = *std::move(from);
  EXPECT_EQ(std::string(to->as<char>(), to->bytes()), "1234");
}

TEST_P(DeviceBufferTest, AReservedBufferServesWhatFits) {
  GrowingBuffer buffer;
  ASSERT_TRUE(buffer.Reserve(1000, stream()).ok());
  auto* first = buffer.Get<int32_t>(250, stream());
  EXPECT_NE(first, nullptr);
  EXPECT_EQ(buffer.Get<int32_t>(7, stream()), first);
  ASSERT_TRUE(buffer.Reserve(10, stream()).ok());
  EXPECT_EQ(buffer.bytes(), 1000u);
  EXPECT_EQ(buffer.Reserve(size_t{1} << 60, stream()).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(buffer.bytes(), 1000u);
}

TEST_P(DeviceBufferTest, ABufferGrowsOnACpuOnly) {
  if (on_gpu()) {
    GrowingBuffer buffer;
    ASSERT_TRUE(buffer.Reserve(8, stream()).ok());
    EXPECT_DEATH(buffer.Get<int32_t>(3, stream()), "bytes \\(12\\) <= buffer_.bytes\\(\\) \\(8\\)");
    return;
  }
  GrowingBuffer buffer;
  EXPECT_EQ(buffer.Get<int32_t>(0, stream()), nullptr);
  buffer.Get<int32_t>(3, stream())[2] = 5;
  EXPECT_EQ(buffer.Get<int32_t>(2, stream())[2], 5);  // what is there stays
  EXPECT_EQ(buffer.bytes(), 12u);
  buffer.Get<int32_t>(100, stream())[99] = 1;
  EXPECT_EQ(buffer.bytes(), 400u);
}

TEST(StreamDeathTest, RefusesToCopyOntoItself) {
  char bytes[8] = {};
  EXPECT_DEATH(Stream::Cpu(1).CopyWithin(bytes + 2, bytes, 4), ">= bytes \\(4\\)");
}

TEST(DeviceBufferDeathTest, RejectsCopiesPastTheEnd) {
  auto buffer = DeviceBuffer::Allocate(4, Stream::Cpu(1));
  ASSERT_TRUE(buffer.ok());
  EXPECT_DEATH(buffer->CopyFrom("12345", 5), "offset_bytes \\+ bytes \\(5\\) <= bytes_ \\(4\\)");
}

// Holds with a GPU, without one, and in a build without CUDA.
TEST(StreamTest, AGpuThatIsNotThereIsUnavailable) {
  const auto stream = Stream::Cuda({.ordinal = 1000});
  ASSERT_FALSE(stream.ok());
  EXPECT_NE(stream.status().message(), "");
}

}  // namespace
}  // namespace lexico::kernels

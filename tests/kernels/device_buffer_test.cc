#include "kernels/api/device_buffer.h"

#include <gmock/gmock.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

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

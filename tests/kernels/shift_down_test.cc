#include "kernels/api/shift_down.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/api/device_buffer.h"
#include "tests/kernels/device_ops.h"

namespace lexico::kernels {
namespace {

struct Shape {
  int64_t n_parts;
  size_t part_stride;
  size_t shift;
  size_t kept;
};

class ShiftDownTest : public tests::DeviceTest {
 protected:
  // Random bytes before and after the op.
  void ExpectMoved(const Shape& shape) {
    std::vector<uint8_t> bytes(shape.n_parts * shape.part_stride);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random_());
    DeviceBuffer buffer = *DeviceBuffer::Allocate(bytes.size(), stream());
    buffer.CopyFrom(bytes.data(), bytes.size());
    ShiftDown({buffer.as<uint8_t>(), shape.n_parts, shape.part_stride, shape.shift, shape.kept},
              stream());
    std::vector<uint8_t> after(bytes.size());
    buffer.CopyTo(after.data(), after.size());
    for (int64_t part = 0; part < shape.n_parts; ++part) {
      uint8_t* expected = bytes.data() + part * shape.part_stride;
      for (size_t i = 0; i < shape.kept; ++i) expected[i] = expected[i + shape.shift];
      // What lies behind the kept bytes and was not read may be anything; what is past the source
      // is untouched.
      const size_t begin = part * shape.part_stride;
      for (size_t i = 0; i < shape.part_stride; ++i) {
        if (i >= shape.kept && i < shape.shift + shape.kept) continue;
        ASSERT_EQ(after[begin + i], expected[i]) << "part " << part << " byte " << i;
      }
    }
  }

  std::mt19937 random_{1};
};
LEXICO_TEST_ON_ALL_DEVICES(ShiftDownTest);

TEST_P(ShiftDownTest, MovesOverlappingRanges) {
  ExpectMoved({.n_parts = 3, .part_stride = 160 * 64, .shift = 32 * 64, .kept = 128 * 64});
}

TEST_P(ShiftDownTest, MovesRangesApart) {
  ExpectMoved({.n_parts = 2, .part_stride = 4096, .shift = 2048, .kept = 1024});
}

TEST_P(ShiftDownTest, ManyPartsAndAWordLongShift) {
  ExpectMoved({.n_parts = 70, .part_stride = 1040, .shift = 16, .kept = 1024});
}

TEST_P(ShiftDownTest, NothingKeptChangesNothing) {
  ExpectMoved({.n_parts = 2, .part_stride = 64, .shift = 64, .kept = 0});
}

TEST_P(ShiftDownTest, RefusesSizesThatAreNotWholeWords) {
  alignas(16) uint8_t bytes[64] = {};
  EXPECT_DEATH(ShiftDown({bytes, 1, 64, 8, 16}, Stream::Cpu(1)), "");
  EXPECT_DEATH(ShiftDown({bytes, 1, 16, 16, 16}, Stream::Cpu(1)), "");
}

}  // namespace
}  // namespace lexico::kernels

// The 256 codes and every rounding boundary between them, against the format's own definition (OCP
// 8-bit floating point, E4M3): (-1)^s * 2^(e - 7) * (1 + m / 8), or 2^-6 * m / 8 where e = 0.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/api/omp_encode.h"

namespace lexico::kernels {
namespace {

double Value(int bits) {
  const int exponent = (bits >> 3) & 0xf;
  const int mantissa = bits & 7;
  const double magnitude = exponent == 0 ? std::pow(2, -6) * mantissa / 8
                                         : std::pow(2, exponent - 7) * (1 + mantissa / 8.0);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

constexpr int kLargest = 0x7e;
constexpr int kNanCode = 0x7f;

TEST(E4m3Test, AllCodesHaveTheValueOfTheFormat) {
  for (int bits = 0; bits < 256; ++bits) {
    const float value = E4m3ToFloat(static_cast<uint8_t>(bits));
    if ((bits & 0x7f) == kNanCode) {
      EXPECT_TRUE(std::isnan(value)) << bits;
    } else {
      EXPECT_EQ(value, Value(bits)) << bits;
      EXPECT_EQ(std::signbit(value), (bits & 0x80) != 0) << bits;
    }
  }
}

TEST(E4m3Test, AllNumbersComeBackFromTheirCode) {
  for (int bits = 0; bits < 256; ++bits) {
    if ((bits & 0x7f) == kNanCode) continue;
    EXPECT_EQ(FloatToE4m3(E4m3ToFloat(static_cast<uint8_t>(bits))), bits);
  }
}

TEST(E4m3Test, HalfwayGoesToTheEvenCodeAndItsNeighboursToTheNearest) {
  for (int low = 0; low < kLargest; ++low) {
    const float half = static_cast<float>((Value(low) + Value(low + 1)) / 2);
    const int even = low % 2 == 0 ? low : low + 1;
    EXPECT_EQ(FloatToE4m3(half), even) << low;
    EXPECT_EQ(FloatToE4m3(-half), even | 0x80) << low;
    EXPECT_EQ(FloatToE4m3(std::nextafter(half, 0.0f)), low) << low;
    EXPECT_EQ(FloatToE4m3(std::nextafter(half, 1e9f)), low + 1) << low;
  }
}

TEST(E4m3Test, MagnitudesOverTheLargestSaturate) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {448.0f, 449.0f, 464.0f, 480.0f, 1e9f, infinity}) {
    EXPECT_EQ(FloatToE4m3(value), kLargest) << value;
    EXPECT_EQ(FloatToE4m3(-value), kLargest | 0x80) << value;
  }
}

TEST(E4m3Test, TinyMagnitudesBecomeSignedZero) {
  for (const float value : {0.0f, 1e-45f, 1e-40f, 0x1p-11f, 0x1p-10f}) {
    EXPECT_EQ(FloatToE4m3(value), 0) << value;
    EXPECT_EQ(FloatToE4m3(-value), 0x80) << value;
  }
}

TEST(E4m3Test, NanHasItsCode) {
  EXPECT_EQ(FloatToE4m3(std::numeric_limits<float>::quiet_NaN()), kNanCode);
}

}  // namespace
}  // namespace lexico::kernels

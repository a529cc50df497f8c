#include "kernels/cpu/e4m3.h"

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/api/omp_encode.h"

namespace lexico::kernels {
namespace {

constexpr int kBias = 7;
constexpr int kMantissaBits = 3;
constexpr uint8_t kNan = 0x7f;
constexpr uint8_t kLargest = 0x7e;  // 448

// (-1)^sign * 2^(e - 7) * (1 + m/8), or 2^-6 * m/8 where e = 0.
float Decode(uint8_t bits) {
  const int exponent = (bits >> kMantissaBits) & 0xf;
  const int mantissa = bits & 0x7;
  if ((bits & 0x7f) == kNan) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude =
      exponent == 0
          ? std::ldexp(static_cast<float>(mantissa), 1 - kBias - kMantissaBits)
          : std::ldexp(static_cast<float>(8 + mantissa), exponent - kBias - kMantissaBits);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

}  // namespace

namespace cpu {
const std::array<float, 256>& E4m3Values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> out{};
    for (int bits = 0; bits < 256; ++bits) out[bits] = Decode(static_cast<uint8_t>(bits));
    return out;
  }();
  return values;
}
}  // namespace cpu

uint8_t FloatToE4m3(float value) {
  if (std::isnan(value)) return kNan;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80);
  const float magnitude = std::fabs(value);
  if (magnitude >= cpu::kE4m3Max) return sign | kLargest;
  if (magnitude < 0x1p-6f) {
    // Subnormals are multiples of 2^-9; 8 of them are 2^-6, whose code (exponent 1, mantissa 0) is
    // the integer 8 too. Adding 2^23 leaves the nearest integer, ties to even, in the low bits.
    const float shifted = magnitude * 512.0f + 0x1p23f;
    return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(shifted) & 0xf);
  }
  // Keep 3 of 23 mantissa bits; adding just under half, plus the bit kept last, rounds ties to
  // even, and a carry moves into the exponent as it should. It cannot reach NaN: magnitude < 448.
  const uint32_t positive = bits & 0x7fffffff;
  const uint32_t rounded = positive + 0x7ffff + ((positive >> 20) & 1);
  return sign | static_cast<uint8_t>((rounded >> 20) - ((127 - kBias) << kMantissaBits));
}

float E4m3ToFloat(uint8_t bits) { return cpu::E4m3Values()[bits]; }

}  // namespace lexico::kernels

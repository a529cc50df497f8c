// The maps of bits to lanes (kernels/cuda/residual_bits.h), by what a product of m16n8k16 does with
// the operands that kernels give it.
#include "kernels/cuda/residual_bits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

namespace lexico::kernels::cuda {
namespace {

// Bits of one plane of a vector, as bytes; numbers past head_dim are 0.
std::vector<uint8_t> RandomPlane(int head_dim, std::mt19937& random) {
  std::vector<uint8_t> plane(head_dim / 8);
  for (uint8_t& byte : plane) byte = static_cast<uint8_t>(random());
  return plane;
}

int Sign(const std::vector<uint8_t>& plane, int number) {
  const bool inside = number < static_cast<int>(plane.size()) * 8;
  return inside && (plane[number / 8] >> (number % 8) & 1) != 0 ? 1 : -1;
}

uint32_t Byte(const std::vector<uint8_t>& plane, int i) {
  return i < static_cast<int>(plane.size()) ? plane[i] : 0;
}

// Of one half of a pair.
int SignOf(uint32_t pair, int half) {
  const uint32_t bits = pair >> (16 * half) & 0xffff;
  EXPECT_TRUE(bits == 0x3c00 || bits == 0xbc00) << bits;  // 1 and -1 in F16
  return bits == 0x3c00 ? 1 : -1;
}

// As LoadKeyWords (sparse_family_scores.cuh).
uint32_t KeyWord(const std::vector<uint8_t>& plane, int padded_dim, int t, int word) {
  if (padded_dim == kResidualDimPadded) return Byte(plane, 2 * t) | Byte(plane, 2 * t + 1) << 16;
  uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) bits |= Byte(plane, 4 * (t + 4 * word) + i) << (8 * i);
  return bits;
}

TEST(ResidualBitsTest, BitsBecomeSigns) {
  for (int j = 0; j < 16; ++j) {
    EXPECT_EQ(SignPair(0, j), 0xbc00bc00u);
    EXPECT_EQ(SignPair(1u << j, j), 0xbc003c00u);
    EXPECT_EQ(SignPair(1u << (j + 16), j), 0x3c00bc00u);
    EXPECT_EQ(SignPair(~(1u << j), j), 0x3c00bc00u);
  }
}

TEST(ResidualBitsTest, KeysMeetEveryNumberOnceAndWithItsOwnBit) {
  std::mt19937 random(1);
  for (const int head_dim : {8, 16, 32, 64, 128, 256}) {
    SCOPED_TRACE(head_dim);
    const std::vector<uint8_t> plane = RandomPlane(head_dim, random);
    const int padded_dim = PaddedDim(head_dim);
    std::set<int> met;
    for (int s = 0; s < padded_dim / 16; ++s) {
      for (int t = 0; t < 4; ++t) {
        for (int r = 0; r < 2; ++r) {
          const uint32_t pair = SignPair(KeyWord(plane, padded_dim, t, s / 8), KeyBit(s, r));
          for (int half = 0; half < 2; ++half) {
            const int number = KeyNumber(padded_dim, t, s, r, half);
            ASSERT_LT(number, padded_dim);
            EXPECT_TRUE(met.insert(number).second);
            EXPECT_EQ(SignOf(pair, half), Sign(plane, number)) << number;
          }
        }
      }
    }
    EXPECT_EQ(met.size(), static_cast<size_t>(padded_dim));
  }
}

TEST(ResidualBitsTest, KeyRowsAreTheTokensOfTheirLanes) {
  std::set<int> met;
  for (int g = 0; g < 8; ++g) {
    for (int m = 0; m < 2; ++m) {
      for (int h = 0; h < 2; ++h) {
        const int token = KeyToken(g, m, h);
        EXPECT_EQ(token / 4, g);  // which lanes 4 g .. 4 g + 3 exchange among themselves
        EXPECT_EQ(token % 4, 2 * m + h);
        EXPECT_TRUE(met.insert(token).second);
      }
    }
  }
  EXPECT_EQ(met.size(), 32u);
}

TEST(ResidualBitsTest, ValuesMeetEveryNumberOnceAndWithItsOwnBit) {
  std::mt19937 random(2);
  for (const int head_dim : {8, 16, 32, 64, 128, 256}) {
    SCOPED_TRACE(head_dim);
    const std::vector<uint8_t> first = RandomPlane(head_dim, random);
    const std::vector<uint8_t> second = RandomPlane(head_dim, random);
    const int padded_dim = PaddedDim(head_dim);
    const int tiles = std::min(padded_dim, kPassDim) / 16;
    std::set<int> met;
    std::set<int> places;
    for (int pass = 0; pass * kPassDim < padded_dim; ++pass) {
      for (int g = 0; g < 8; ++g) {
        // As LoadValueBits (sparse_family_values.cuh).
        const auto bits = [&](const std::vector<uint8_t>& plane) {
          if (tiles == 4) return Byte(plane, g);
          const int at = 16 * pass + 2 * g;
          return Byte(plane, at) | Byte(plane, at + 1) << 8;
        };
        const uint32_t word = bits(first) | bits(second) << 16;
        for (int m = 0; m < tiles; ++m) {
          for (int h = 0; h < 2; ++h) {
            const int number = ValueNumber(padded_dim, pass, g, ValueBit(m, h));
            ASSERT_LT(number, padded_dim);
            EXPECT_TRUE(met.insert(number).second);
            const int place = ValuePlace(padded_dim, number);
            ASSERT_LT(place, padded_dim);
            EXPECT_TRUE(places.insert(place).second);
            EXPECT_EQ(place % 8, g);  // so that a warp's lanes meet different banks
            const uint32_t pair = SignPair(word, ValueBit(m, h));
            EXPECT_EQ(SignOf(pair, 0), Sign(first, number)) << number;
            EXPECT_EQ(SignOf(pair, 1), Sign(second, number)) << number;
          }
        }
      }
    }
    EXPECT_EQ(met.size(), static_cast<size_t>(padded_dim));
    EXPECT_EQ(places.size(), static_cast<size_t>(padded_dim));
  }
}

TEST(ResidualBitsTest, LanesOfValuesHaveEveryTokenOnce) {
  std::set<int> met;
  for (int t = 0; t < 4; ++t) {
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(met.insert(ValueToken(t, i)).second);
  }
  EXPECT_EQ(met.size(), 16u);
  EXPECT_EQ(*met.rbegin(), 15);
}

}  // namespace
}  // namespace lexico::kernels::cuda

// How the lanes of a warp hold the bit planes of residuals (kernels/api/residual.h) for products on
// tensor cores, m16n8k16 with F16 operands and F32 sums (mma.cuh). A bit becomes the number +-1.
//
// The planes are the left operand A in both products, so a register of A holds two signs: bits j
// and j + 16 of a word, for which one shift and one logical operation are enough (SignPair). Which
// numbers of a vector those are is free, because the right operand or the result is put into the
// same order; so a lane reads whole words of a plane, in the order in which they are stored.
//
//   scores   rows of A are tokens, k are the numbers of a vector: lane (g, t), g = lane / 4, t =
//            lane % 4, has word t of a token's plane, and word t + 4 of 256 numbers
//   values   rows of A are the numbers of a vector, k are tokens: lane (g, t) has half-word g of
//            four tokens' planes, two tokens a word
//
// A plane of 64 numbers or fewer has a byte where the others have a half-word; a word then holds
// two bytes, at bits 0 and 16, and numbers past the vector's are bits of 0, of which the other
// operand or the result makes nothing.
//
// Numbers of the other operand are split in two F16 pieces, 22 bits together: the nearest, and
// what is left times 2^11. Pieces are columns of their own: column n is piece n % 2 of query head
// n / 2. Signs are exact, so products are too, and sums are F32's.
#pragma once

#include <cstdint>

#include "kernels/cuda/code_order.h"

namespace lexico::kernels::cuda {

inline constexpr int kResidualDimPadded = 64;
// Numbers of a vector, at least as many as a warp's products take at a time.
LEXICO_HOST_DEVICE constexpr int PaddedDim(int head_dim) {
  return head_dim < kResidualDimPadded ? kResidualDimPadded : head_dim;
}

// Two F16 numbers, 1 where bit j (low half) and bit j + 16 (high half) are set, else -1.
LEXICO_HOST_DEVICE constexpr uint32_t SignPair(uint32_t word, int j) {
  return (word << (15 - j) & 0x80008000u) ^ 0xbc00bc00u;
}

// Scores: step s of padded_dim / 16 products; register r of a row's two in A is
// SignPair(word s / 8 of the lane, KeyBit(s, r)), and its half `half` is number
// KeyNumber(padded_dim, t, s, r, half).
LEXICO_HOST_DEVICE constexpr int KeyBit(int s, int r) { return 2 * (s % 8) + r; }
LEXICO_HOST_DEVICE constexpr int KeyNumber(int padded_dim, int t, int s, int r, int half) {
  if (padded_dim == kResidualDimPadded) return 16 * t + KeyBit(s, r) + 8 * half;
  return 32 * (t + 4 * (s / 8)) + KeyBit(s, r) + 16 * half;
}
// Row g + 8 h of product m is token 4 g + 2 m + h of 32, so that the results of lane (g, t) become
// those of token 4 g + t, its own, by exchanges among the 4 lanes of equal g.
LEXICO_HOST_DEVICE constexpr int KeyToken(int g, int m, int h) { return 4 * g + 2 * m + h; }

// Values: a pass has 128 numbers, or 64 in all. Row g + 8 h of product m is number
// ValueNumber(padded_dim, pass, g, ValueBit(m, h)).
inline constexpr int kPassDim = 128;
LEXICO_HOST_DEVICE constexpr int ValueBit(int m, int h) { return 2 * m + h; }
LEXICO_HOST_DEVICE constexpr int ValueNumber(int padded_dim, int pass, int g, int bit) {
  return padded_dim == kResidualDimPadded ? 8 * g + bit : kPassDim * pass + 16 * g + bit;
}
// Tokens 4 t + i of 16: k = 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of lane t.
LEXICO_HOST_DEVICE constexpr int ValueToken(int t, int i) { return 4 * t + i; }

// Where the sum of a number lies among those of its vector: lanes of consecutive g side by side.
LEXICO_HOST_DEVICE constexpr int ValuePlace(int padded_dim, int number) {
  return padded_dim == kResidualDimPadded
             ? number % 8 * 8 + number / 8
             : number / kPassDim * kPassDim + number % 16 * 8 + number % kPassDim / 16;
}

}  // namespace lexico::kernels::cuda

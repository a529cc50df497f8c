// Definition of a vector's code (proto/base/vector_code.h, kernels/api/residual.h,
// kernels/api/quantize_codes.h): made and read one vector at a time, in double, in the order of the
// formulas. Do not make it faster: it is what "correct" means. Coding runs
// kernels/cpu/quantize_codes.cc.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/api/code_layout.h"
#include "kernels/cpu/dictionary.h"
#include "proto/base/limits.h"

namespace lexico::kernels::definition {

// One vector as its block holds it.
struct CodedVector {
  std::array<uint16_t, base::kSparsityMax> atoms{};  // [sparsity] as stored: packed or plain
  std::array<uint8_t, base::kSparsityMax> coefs{};   // [sparsity], not packed
  uint16_t scale = 0;
  uint16_t residual_scale = 0;
  std::array<uint8_t, base::kResidualBitsMax * base::kHeadDimMax / 8> residual{};
};

// Its place j: which atom, and its coefficient.
int AtomOf(const VectorCode& code, const CodedVector& vector, int j);
double CoefficientOf(const VectorCode& code, const CodedVector& vector, int j);

// Vector t of a block of n.
void StoreVector(const VectorCode& code, int head_dim, const CodedVector& vector, uint8_t* block,
                 int n, int t);
CodedVector LoadVector(const VectorCode& code, int head_dim, const uint8_t* block, int n, int t);

// The code of x [head_dim], finite, with the atoms and coefficients [sparsity] of its pursuit.
// `dictionary` is not read where there are no atoms.
CodedVector EncodeVector(const VectorCode& code, int head_dim, const cpu::Dictionary* dictionary,
                         const float* x, const uint16_t* atoms, const float* coefficients);

// x^, and how far rounding may move each number: the sum of its terms' absolute values.
struct DecodedVector {
  std::vector<double> x;
  std::vector<double> magnitude;
};
DecodedVector DecodeVector(const VectorCode& code, int head_dim, const cpu::Dictionary* dictionary,
                           const CodedVector& vector);

// The same of a token in a page.
DecodedVector DecodeVector(const PageLayout& layout, bool value, int kv_head, int token,
                           const uint8_t* page, const cpu::Dictionary* dictionary);

// z = R r, and back. In place, [head_dim].
void Rotate(std::vector<double>& r);
void RotateBack(std::vector<double>& z);

}  // namespace lexico::kernels::definition

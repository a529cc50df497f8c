// Conversions between F32, F16 and BF16.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/api/tensor.h"

namespace lexico::kernels::cpu {

// One number at a time, for loading and for definitions. Exact widenings; narrowing rounds to
// nearest even, overflows to infinity and keeps NaN (quiet, sign and upper payload bits).
inline float Bf16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
uint16_t FloatToBf16(float value);
float F16ToFloat(uint16_t bits);
uint16_t FloatToF16(float value);

// Element i of a F32, F16 or BF16 array.
float LoadFloat(const void* data, DType dtype, int64_t i);

// kernels/api/elementwise.h Convert. The same bits as the conversions above.
void Convert(TensorView from, MutableTensorView to, int threads);

}  // namespace lexico::kernels::cpu

// Asymmetric integers in groups of 32, each group with an FP16 zero point and an FP16 scale.
//
//   zero = fp16(min);  scale = fp16((max - min) / (2^bits - 1));  x^ = zero + scale * round(...)
#pragma once

#include <memory>

#include "tools/eval/rivals/rival.h"

namespace lexico::eval {

inline constexpr int kQuantizerGroup = 32;  // KIVI's, as the paper's tables use it

// Replaces x[0], x[stride], ... x[(n - 1) * stride] by what is read back.
void QuantizeGroup(float* x, int64_t stride, int64_t n, int bits);

enum class KeyGroups { kPerChannel, kPerToken };

std::unique_ptr<const Rival> MakeGroupQuantizer(std::string name, int bits, KeyGroups keys);

}  // namespace lexico::eval

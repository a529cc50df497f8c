// A random rotation and Lloyd-Max levels: after H S / sqrt(head_dim) (S random signs, H Hadamard)
// the numbers of any vector look like draws of a Gaussian, for which the best levels are known.
//
//   z = H S x / sqrt(head_dim);  scale = fp16(||x|| / sqrt(head_dim))
//   z^_i = scale * nearest level to z_i / scale;  x^ = S H z^ / sqrt(head_dim)
//   unbiased: scale is multiplied by <z, z> / <z, z^>, so that <x^, x> = <x, x>
//
// Levels and signs belong to the method, not to the cache: `bits` numbers and one FP16 a vector.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "tools/eval/rivals/rival.h"

namespace lexico::eval {

// The 2^bits levels of least mean squared error for a standard normal number, ascending (Lloyd
// 1957, Max 1960): each is the mean of the numbers that are nearest to it.
std::vector<double> LloydMaxLevels(int bits);

// x becomes H x / sqrt(x.size()), its own inverse. REQUIRES: the size is a power of two.
void HadamardTransform(std::span<float> x);

std::unique_ptr<const Rival> MakeRotation(std::string name, int bits, bool unbiased);

}  // namespace lexico::eval

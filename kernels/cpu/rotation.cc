#include "kernels/cpu/rotation.h"

#include <array>
#include <cmath>

#include "kernels/api/residual.h"
#include "proto/base/limits.h"

namespace lexico::kernels::cpu {
namespace {

constexpr auto kSigns = [] {
  std::array<float, base::kHeadDimMax> signs{};
  for (int i = 0; i < base::kHeadDimMax; ++i) signs[i] = ResidualSign(i);
  return signs;
}();

void Hadamard(float* x, int n) {
  for (int half = 1; half < n; half *= 2) {
    for (int begin = 0; begin < n; begin += 2 * half) {
      float* low = x + begin;
      float* high = low + half;
#pragma omp simd
      for (int i = 0; i < half; ++i) {
        const float a = low[i];
        const float b = high[i];
        low[i] = a + b;
        high[i] = a - b;
      }
    }
  }
}

void Multiply(float* x, int n, float factor) {
#pragma omp simd
  for (int i = 0; i < n; ++i) x[i] *= factor * kSigns[i];
}

float Scale(int n) { return 1 / std::sqrt(static_cast<float>(n)); }

}  // namespace

void Rotate(float* x, int head_dim) {
  Multiply(x, head_dim, Scale(head_dim));
  Hadamard(x, head_dim);
}

void RotateBack(float* x, int head_dim) {
  Hadamard(x, head_dim);
  Multiply(x, head_dim, Scale(head_dim));
}

}  // namespace lexico::kernels::cpu

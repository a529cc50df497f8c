// Definitions in the order of the formulas. Do not make them faster: they are what "correct" means.
#include "kernels/cpu/elementwise_definition.h"

#include <cmath>

namespace lexico::kernels::cpu::definition {

void RmsNorm(TensorView x, TensorView weight, float epsilon, MutableTensorView y,
             MutableTensorView magnitude) {
  const int64_t n = x.dim(1);
  for (int64_t row = 0; row < x.dim(0); ++row) {
    const float* from = x.as<float>() + row * n;
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(from[i]) * from[i];
    const double scale = 1.0 / std::sqrt(sum / n + epsilon);
    for (int64_t i = 0; i < n; ++i) {
      const double value = from[i] * scale * weight.as<float>()[i];
      y.as_mutable<float>()[row * n + i] = static_cast<float>(value);
      magnitude.as_mutable<float>()[row * n + i] = static_cast<float>(std::fabs(value));
    }
  }
}

namespace {

// One head, x + bias in double; not rotated where `inv_frequency` is null.
void RotateHead(const float* x, const float* bias, int head_dim, int32_t position,
                const double* inv_frequency, float* y, float* magnitude) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const double angle = inv_frequency == nullptr ? 0.0 : position * inv_frequency[i];
    const double cosine = std::cos(angle);
    const double sine = std::sin(angle);
    const double low_bias = bias == nullptr ? 0.0 : bias[i];
    const double high_bias = bias == nullptr ? 0.0 : bias[i + half];
    const double low = x[i] + low_bias;
    const double high = x[i + half] + high_bias;
    const double low_size = std::fabs(x[i]) + std::fabs(low_bias);
    const double high_size = std::fabs(x[i + half]) + std::fabs(high_bias);
    y[i] = static_cast<float>(low * cosine - high * sine);
    y[i + half] = static_cast<float>(high * cosine + low * sine);
    magnitude[i] = static_cast<float>(low_size * std::fabs(cosine) + high_size * std::fabs(sine));
    magnitude[i + half] =
        static_cast<float>(high_size * std::fabs(cosine) + low_size * std::fabs(sine));
  }
}

}  // namespace

void RotateAndSplit(const RopeArgs& args, const RopeMagnitudes& magnitudes) {
  const int n_all = args.n_heads + 2 * args.n_kv_heads;
  for (int64_t row = 0; row < args.qkv.dim(0); ++row) {
    for (int head = 0; head < n_all; ++head) {
      const bool is_q = head < args.n_heads;
      const bool is_k = !is_q && head < args.n_heads + args.n_kv_heads;
      const MutableTensorView& to = is_q ? args.q : is_k ? args.k : args.v;
      float* magnitude = is_q ? magnitudes.q : is_k ? magnitudes.k : magnitudes.v;
      const int first = is_q ? 0 : is_k ? args.n_heads : args.n_heads + args.n_kv_heads;
      const int64_t at = (row * to.dim(1) + head - first) * args.head_dim;
      const int64_t column = static_cast<int64_t>(head) * args.head_dim;
      RotateHead(args.qkv.as<float>() + row * args.qkv.dim(1) + column,
                 args.bias == nullptr ? nullptr : args.bias + column, args.head_dim,
                 args.positions[row], is_q || is_k ? args.inv_frequency : nullptr,
                 to.as_mutable<float>() + at, magnitude + at);
    }
  }
}

void SwiGlu(TensorView gate_up, MutableTensorView y, MutableTensorView magnitude) {
  const int64_t n = y.dim(1);
  for (int64_t row = 0; row < y.dim(0); ++row) {
    for (int64_t i = 0; i < n; ++i) {
      const double gate = gate_up.as<float>()[row * 2 * n + i];
      const double up = gate_up.as<float>()[row * 2 * n + n + i];
      const double value = gate / (1.0 + std::exp(-gate)) * up;
      y.as_mutable<float>()[row * n + i] = static_cast<float>(value);
      magnitude.as_mutable<float>()[row * n + i] = static_cast<float>(std::fabs(value));
    }
  }
}

}  // namespace lexico::kernels::cpu::definition

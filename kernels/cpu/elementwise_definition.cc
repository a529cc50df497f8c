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

void Rope(const RopeArgs& args, float* magnitude) {
  const int half = args.head_dim / 2;
  for (int64_t row = 0; row < args.n_rows; ++row) {
    for (int head = 0; head < args.n_heads; ++head) {
      const int64_t at = row * args.row_stride + static_cast<int64_t>(head) * args.head_dim;
      for (int i = 0; i < half; ++i) {
        const double angle = args.positions[row] * args.inv_frequency[i];
        const double cosine = std::cos(angle);
        const double sine = std::sin(angle);
        const double low = args.x[at + i];
        const double high = args.x[at + i + half];
        args.x[at + i] = static_cast<float>(low * cosine - high * sine);
        args.x[at + i + half] = static_cast<float>(high * cosine + low * sine);
        magnitude[at + i] = static_cast<float>(std::fabs(low * cosine) + std::fabs(high * sine));
        magnitude[at + i + half] =
            static_cast<float>(std::fabs(high * cosine) + std::fabs(low * sine));
      }
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

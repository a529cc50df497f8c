// Definition of MatMul, in the order of the formula. Do not make it faster: it is what "correct"
// means, and its `magnitude` decides how far the fast version may be off.
#include "kernels/cpu/matmul_definition.h"

#include <cmath>

#include "kernels/cpu/convert.h"

namespace lexico::kernels::cpu::definition {

void MatMul(TensorView x, std::span<const TensorView> weights, bool accumulate, MutableTensorView y,
            MutableTensorView magnitude) {
  const int64_t n_in = x.dim(1);
  for (int64_t row = 0; row < x.dim(0); ++row) {
    int64_t at = row * y.dim(1);
    for (const TensorView& w : weights) {
      for (int64_t out = 0; out < w.dim(0); ++out, ++at) {
        double sum = accumulate ? y.as<float>()[at] : 0.0;
        double size = std::fabs(sum);
        for (int64_t i = 0; i < n_in; ++i) {
          const double term = static_cast<double>(x.as<float>()[row * n_in + i]) *
                              LoadFloat(w.data, w.dtype, out * n_in + i);
          sum += term;
          size += std::fabs(term);
        }
        y.as_mutable<float>()[at] = static_cast<float>(sum);
        magnitude.as_mutable<float>()[at] = static_cast<float>(size);
      }
    }
  }
}

}  // namespace lexico::kernels::cpu::definition

// Definitions of the ops of kernels/api/elementwise.h, in double. `magnitude` arrays have the shape
// of the result and receive the sum of |terms| that formed each element.
#pragma once

#include "kernels/api/elementwise.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels::cpu::definition {

void RmsNorm(TensorView x, TensorView weight, float epsilon, MutableTensorView y,
             MutableTensorView magnitude);

// Magnitudes of the elements of args.q, args.k and args.v.
struct RopeMagnitudes {
  float* q;
  float* k;
  float* v;
};
void RotateAndSplit(const RopeArgs& args, const RopeMagnitudes& magnitudes);

void SwiGlu(TensorView gate_up, MutableTensorView y, MutableTensorView magnitude);

}  // namespace lexico::kernels::cpu::definition

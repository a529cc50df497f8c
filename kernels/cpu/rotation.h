// The rotation of residuals (kernels/api/residual.h) in FP32, in place.
#pragma once

namespace lexico::kernels::cpu {

// R x and R^T x. REQUIRES: CanRotate(head_dim)
void Rotate(float* x, int head_dim);
void RotateBack(float* x, int head_dim);

}  // namespace lexico::kernels::cpu

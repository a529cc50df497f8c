// Matrix products from packed panels, in FP32 arithmetic (AVX-512, AVX2, SSE or NEON).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "hwy/aligned_allocator.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels::cpu {

// W [n_out, n_in], possibly several stacked, in panels of 16 outputs: panel p holds, for every
// input i, the 16 weights of outputs 16p .. 16p + 15. BF16 and F16 weights keep their type, half of
// the bytes of F32, and are widened in registers: exact. A stack of different types is held as
// F32. Immutable after construction.
class PanelMatrix {
 public:
  // REQUIRES: equal n_in; F32, F16 or BF16.
  PanelMatrix(std::span<const TensorView> weights, int64_t n_out, int64_t n_in);

  int64_t n_out() const { return n_out_; }
  int64_t n_in() const { return n_in_; }
  int64_t n_panels() const { return n_panels_; }
  DType dtype() const { return dtype_; }
  const void* data() const { return data_.get(); }
  size_t bytes() const { return static_cast<size_t>(n_panels_) * n_in_ * 16 * DTypeBytes(dtype_); }

 private:
  int64_t n_out_;
  int64_t n_in_;
  int64_t n_panels_;
  DType dtype_;
  hwy::AlignedFreeUniquePtr<uint8_t[]> data_;
};

// y [n_rows, n_out] = x [n_rows, n_in] W^T, or added to y. A row of y depends on its row of x
// alone: the same bits for every n_rows, number of threads and neighbours.
void PanelMatMul(const float* x, int64_t n_rows, const PanelMatrix& w, float* y, bool accumulate,
                 int threads);

// The instruction set that PanelMatMul runs on: "AVX2".
const char* PanelTarget();

}  // namespace lexico::kernels::cpu

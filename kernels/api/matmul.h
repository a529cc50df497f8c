// y = x W^T with weights as checkpoints hold them: W [n_out, n_in] row-major.
//
// Weights are prepared once, at load: packed for the library and the unit this CPU has (AMX or
// AVX-512 BF16 when present and the weights are BF16; FP32 otherwise). Which library, and why:
// docs/adr/.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

class PreparedMatrix {
 public:
  virtual ~PreparedMatrix() = default;
  int64_t n_out() const { return n_out_; }
  int64_t n_in() const { return n_in_; }
  virtual size_t bytes() const = 0;  // memory held

 protected:
  PreparedMatrix(int64_t n_out, int64_t n_in) : n_out_(n_out), n_in_(n_in) {}

 private:
  int64_t n_out_;
  int64_t n_in_;
};

// `weights` [n_out, n_in] F32, F16 or BF16; copied. Several matrices of equal n_in may be stacked
// (QKV, gate and up) so that one product serves them: pass them in order.
absl::StatusOr<std::shared_ptr<const PreparedMatrix>> PrepareMatrix(
    std::initializer_list<TensorView> weights, const Stream& stream);

// y [n_rows, n_out] = x [n_rows, n_in] W^T, all F32, FP32 accumulation; overwritten, or added to
// when `accumulate`. Deterministic for a given n_rows.
void MatMul(TensorView x, const PreparedMatrix& w, MutableTensorView y, bool accumulate,
            const Stream& stream);

// Which unit and library MatMul uses on this machine, for logs: "oneDNN f32 (AVX2)".
const char* MatMulUnit();

}  // namespace lexico::kernels

// y = x W^T with weights as checkpoints hold them: W [n_out, n_in] row-major.
//
// Weights are prepared once, at load: packed for the library and the unit this CPU has (AMX or
// AVX-512 BF16 when present and the weights are BF16; FP32 otherwise), or copied to the GPU in
// their own type for cuBLASLt. Which library, and why: docs/adr/0002 and 0008.
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
  // The type of x that MatMul takes without a copy: F32 on a CPU; on a GPU the weights'.
  virtual DType input_type() const = 0;

 protected:
  PreparedMatrix(int64_t n_out, int64_t n_in) : n_out_(n_out), n_in_(n_in) {}

 private:
  int64_t n_out_;
  int64_t n_in_;
};

// `weights` [n_out, n_in] F32, F16 or BF16, in host memory; copied. A stack of different types is
// held as F32. On a GPU Unavailable where cuBLASLt is not installed, ResourceExhausted where the
// weights do not fit. Several matrices of equal n_in may be stacked
// (QKV, gate and up) so that one product serves them: pass them in order.
absl::StatusOr<std::shared_ptr<const PreparedMatrix>> PrepareMatrix(
    std::initializer_list<TensorView> weights, const Stream& stream);

// y [n_rows, n_out] = x [n_rows, n_in] W^T, y F32, FP32 accumulation; overwritten, or added to
// when `accumulate`. x is F32, or on a GPU of w.input_type(); F32 rows for 16-bit weights are there
// rounded to nearest first, in the stream's workspace. F32 weights multiply in F32.
//
// Deterministic for a given n_rows. Rows are independent, but the order of a row's sum may follow
// n_rows: a row of batches of different sizes differs by the rounding of F32 sums, at most 32 units
// of 2^-23 of the sum of |terms| (tests; a few in practice).
void MatMul(TensorView x, const PreparedMatrix& w, MutableTensorView y, bool accumulate,
            const Stream& stream);

// Which unit and library MatMul uses there, for logs: "F32 panels (AVX2)", "cuBLASLt".
const char* MatMulUnit(const Stream& stream);

}  // namespace lexico::kernels

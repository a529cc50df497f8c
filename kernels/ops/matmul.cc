#include "kernels/api/matmul.h"

#include "kernels/cpu/matmul.h"
#include "kernels/cuda/matmul.h"

namespace lexico::kernels {

absl::StatusOr<std::shared_ptr<const PreparedMatrix>> PrepareMatrix(
    std::initializer_list<TensorView> weights, const Stream& stream) {
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::PrepareMatrix({weights.begin(), weights.size()}, cpu::Bf16Unit());
    case DeviceKind::kCuda:
      return cuda::PrepareMatrix({weights.begin(), weights.size()}, stream);
  }
  LEXICO_UNREACHABLE();
}

void MatMul(TensorView x, const PreparedMatrix& w, MutableTensorView y, bool accumulate,
            const Stream& stream) {
  LEXICO_CHECK(x.dtype == DType::kF32 || x.dtype == w.input_type());
  LEXICO_CHECK(y.dtype == DType::kF32);
  LEXICO_CHECK_EQ(x.rank, 2);
  LEXICO_CHECK_EQ(y.rank, 2);
  LEXICO_CHECK_EQ(x.dim(1), w.n_in());
  LEXICO_CHECK_EQ(y.dim(1), w.n_out());
  LEXICO_CHECK_EQ(y.dim(0), x.dim(0));

  if (x.dim(0) == 0) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::MatMul(x, w, y, accumulate, stream.threads());
    case DeviceKind::kCuda:
      return cuda::MatMul(x, w, y, accumulate, stream);
  }
  LEXICO_UNREACHABLE();
}

const char* MatMulUnit(const Stream& stream) {
  return stream.kind() == DeviceKind::kCuda ? "cuBLASLt" : cpu::MatMulUnit();
}

}  // namespace lexico::kernels

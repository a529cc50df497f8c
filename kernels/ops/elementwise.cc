#include "kernels/api/elementwise.h"

#include "kernels/cpu/convert.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/ops/check_rope.h"

namespace lexico::kernels {
namespace {

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// What RmsNorm and SwiGlu may write.
bool IsActivation(DType dtype, const Stream& stream) {
  return dtype == DType::kF32 || (stream.kind() == DeviceKind::kCuda && IsFloat(dtype));
}

}  // namespace

void RmsNorm(TensorView x, TensorView weight, float epsilon, MutableTensorView y,
             const Stream& stream) {
  LEXICO_CHECK(x.dtype == DType::kF32);
  LEXICO_CHECK(weight.dtype == DType::kF32);
  LEXICO_CHECK(IsActivation(y.dtype, stream));
  LEXICO_CHECK_EQ(x.rank, 2);
  LEXICO_CHECK_EQ(weight.size(), x.dim(1));
  LEXICO_CHECK_EQ(y.dim(0), x.dim(0));
  LEXICO_CHECK_EQ(y.dim(1), x.dim(1));

  if (x.empty()) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::RmsNorm(x, weight, epsilon, y, stream.threads());
    case DeviceKind::kCuda:
      return cuda::RmsNorm(x, weight, epsilon, y, stream);
  }
  LEXICO_UNREACHABLE();
}

void RotateAndSplit(const RopeArgs& args, const Stream& stream) {
  CheckRope(args);
  const int64_t n_rows = args.qkv.dim(0);
  if (n_rows == 0) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      for (int64_t row = 0; row < n_rows; ++row) LEXICO_CHECK_GE(args.positions[row], 0);
      return cpu::RotateAndSplit(args, stream.threads());
    case DeviceKind::kCuda:
      return cuda::RotateAndSplit(args, stream);
  }
  LEXICO_UNREACHABLE();
}

void SwiGlu(TensorView gate_up, MutableTensorView y, const Stream& stream) {
  LEXICO_CHECK(gate_up.dtype == DType::kF32);
  LEXICO_CHECK(IsActivation(y.dtype, stream));
  LEXICO_CHECK_EQ(gate_up.rank, 2);
  LEXICO_CHECK_EQ(gate_up.dim(0), y.dim(0));
  LEXICO_CHECK_EQ(gate_up.dim(1), 2 * y.dim(1));

  if (y.empty()) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::SwiGlu(gate_up, y, stream.threads());
    case DeviceKind::kCuda:
      return cuda::SwiGlu(gate_up, y, stream);
  }
  LEXICO_UNREACHABLE();
}

void Embed(TensorView table, std::span<const int32_t> ids, MutableTensorView y,
           const Stream& stream) {
  LEXICO_CHECK(IsFloat(table.dtype));
  LEXICO_CHECK(y.dtype == DType::kF32);
  LEXICO_CHECK_EQ(y.dim(0), static_cast<int64_t>(ids.size()));
  LEXICO_CHECK_EQ(y.dim(1), table.dim(1));

  if (y.empty()) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      for (const int32_t id : ids) {
        LEXICO_CHECK_GE(id, 0);
        LEXICO_CHECK_LT(id, table.dim(0));
      }
      return cpu::Embed(table, ids, y, stream.threads());
    case DeviceKind::kCuda:
      return cuda::Embed(table, ids, y, stream);
  }
  LEXICO_UNREACHABLE();
}

void Convert(TensorView from, MutableTensorView to, const Stream& stream) {
  LEXICO_CHECK(IsFloat(from.dtype));
  LEXICO_CHECK(IsFloat(to.dtype));
  LEXICO_CHECK_EQ(from.size(), to.size());

  if (from.empty()) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::Convert(from, to, stream.threads());
    case DeviceKind::kCuda:
      return cuda::Convert(from, to, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

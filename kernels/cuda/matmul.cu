// Products by cuBLASLt (matmul_plans.h). Weights lie in device memory in their own type, rows
// filled with zeros to a multiple of 16 bytes, so that every shape has an algorithm. x is used
// where it lies when it has the weights' type, full rows and an aligned address; otherwise
// PackRows copies it into the workspace, rounded and filled up, in waves of as many rows as fit.
//
// Workspace: up to kBlasBytes for cuBLASLt, at most half of it; packed rows in the rest.
// Deterministic: an algorithm a shape, chosen once (matmul_plans.h), and cuBLASLt adds split sums
// in a fixed order. Rows of batches of other sizes: the same bits in BF16, 0.7 units of 2^-24 of
// the sum of |terms| in F32, on the card below.
//
// Measured, 28 Nov 2026, H100 80GB HBM3, CUDA 13.0, lexico-bench-kernels --device cuda --op matmul,
// BF16: 1 row reads the weights of gate and up (28672 x 4096) in 83.0 us, 2.83 TB/s, where a copy
// moves 2.42; of QKV in 21.2 us, 2.38 TB/s; 2048 rows run at 728 to 800 TFLOP/s, a product of 8192
// cubed at 772. All figures: docs/adr/0008-dense-ops-on-a-gpu.md.
#include <algorithm>
#include <utility>

#include "kernels/api/device_buffer.h"
#include "kernels/api/weights.h"
#include "kernels/cuda/groups.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_plans.h"
#include "kernels/cuda/overlap.cuh"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

// What NVIDIA advises for Hopper: with less, some split products are not offered.
constexpr size_t kBlasBytes = size_t{32} << 20;
constexpr int64_t kRowAlignment = 16;
constexpr int kThreads = 256;

class Matrix final : public PreparedMatrix {
 public:
  Matrix(int64_t n_out, int64_t n_in, int64_t row_elements, DType type, DeviceBuffer weights)
      : PreparedMatrix(n_out, n_in),
        row_elements_(row_elements),
        type_(type),
        weights_(std::move(weights)) {}
  size_t bytes() const override { return weights_.bytes(); }
  DType input_type() const override { return type_; }

  // n_in and the zeros behind.
  int64_t row_elements() const { return row_elements_; }
  const void* data() const { return weights_.as<void>(); }

 private:
  int64_t row_elements_;
  DType type_;
  DeviceBuffer weights_;
};

// from [n_rows, n] -> to [n_rows, row_elements], zeros behind n. A thread a group of `to`.
template <typename From, typename To>
__global__ void PackRowsKernel(const From* from, int64_t n, int64_t n_groups, int64_t row_elements,
                               bool whole, To* to) {
  WaitForPrevious();
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (group >= n_groups) return;
  const int64_t at = group * kGroup;
  const int64_t row = at / row_elements;
  const int64_t column = at % row_elements;
  const bool full = whole && column < n;  // behind n there are zeros, not the next row
  const float4 x = LoadGroup(from + row * n + column, n - column, full);
  StoreGroup(x, to + at, kGroup, true);
}

void PackRows(const Gpu& gpu, const TensorView& from, DType type, int64_t row_elements, void* to) {
  const int64_t n = from.dim(1);
  const int64_t n_groups = from.dim(0) * row_elements / kGroup;
  const bool whole = WholeGroups(from.data, from.dtype, n);
  WithType(from.dtype, [&](auto from_zero) {
    WithType(type, [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      Launch(gpu, PackRowsKernel<From, To>,
             {"PackRows", dim3(CeilDiv(n_groups, kThreads)), kThreads, 0, kOverlaps},
             static_cast<const From*>(from.data), n, n_groups, row_elements, whole,
             static_cast<To*>(to));
    });
  });
}

absl::Status EnsurePlans(const Gpu& gpu) {
  if (gpu.matmul_plans() != nullptr) return absl::OkStatus();
  gpu.MakeCurrent();
  const size_t bytes = std::min(kBlasBytes, gpu.workspace_bytes() / 2) / 256 * 256;
  absl::StatusOr<std::unique_ptr<MatMulPlans>> plans = MatMulPlans::Create(bytes);
  if (!plans.ok()) return plans.status();
  gpu.matmul_plans() = *std::move(plans);
  return absl::OkStatus();
}

// Copies one matrix of the stack to its rows of the device's, through a buffer where its type or
// width differ.
absl::Status Upload(const TensorView& from, DType type, int64_t row_elements, char* to,
                    const Stream& stream) {
  if (from.dtype == type && from.dim(1) == row_elements) {
    stream.device()->CopyFromHost(to, from.data, from.size_bytes());
    return absl::OkStatus();
  }
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Allocate(from.size_bytes(), stream);
  if (!buffer.ok()) return buffer.status();
  buffer->CopyFrom(from.data, from.size_bytes());
  TensorView there = from;
  there.data = buffer->as<void>();
  PackRows(GpuOf(stream), there, type, row_elements, to);
  return absl::OkStatus();  // ~DeviceBuffer waits
}

}  // namespace

absl::StatusOr<std::shared_ptr<const PreparedMatrix>> PrepareMatrix(
    std::span<const TensorView> weights, const Stream& stream) {
  if (absl::Status status = CheckWeights(weights); !status.ok()) return status;
  if (absl::Status status = EnsurePlans(GpuOf(stream)); !status.ok()) return status;
  int64_t n_out = 0;
  DType type = weights[0].dtype;
  for (const TensorView& w : weights) {
    n_out += w.dim(0);
    if (w.dtype != type) type = DType::kF32;
  }
  const int64_t n_in = weights[0].dim(1);
  const auto element_bytes = static_cast<int64_t>(DTypeBytes(type));
  const int64_t row_elements =
      CeilDiv(n_in * element_bytes, kRowAlignment) * kRowAlignment / element_bytes;
  absl::StatusOr<DeviceBuffer> buffer =
      DeviceBuffer::Allocate(n_out * row_elements * element_bytes, stream);
  if (!buffer.ok()) return buffer.status();
  char* to = buffer->as<char>();
  for (const TensorView& w : weights) {
    if (absl::Status status = Upload(w, type, row_elements, to, stream); !status.ok()) {
      return status;
    }
    to += w.dim(0) * row_elements * element_bytes;
  }
  return std::make_shared<const Matrix>(n_out, n_in, row_elements, type, *std::move(buffer));
}

void MatMul(TensorView x, const PreparedMatrix& w, MutableTensorView y, bool accumulate,
            const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  const auto* matrix = dynamic_cast<const Matrix*>(&w);
  LEXICO_CHECK(matrix != nullptr);
  LEXICO_CHECK(gpu.matmul_plans() != nullptr);  // a matrix was prepared with another stream
  gpu.MakeCurrent();
  MatMulPlans& plans = *gpu.matmul_plans();
  const DType type = matrix->input_type();
  const int64_t row_elements = matrix->row_elements();
  const bool in_place = x.dtype == type && w.n_in() == row_elements &&
                        reinterpret_cast<uintptr_t>(x.data) % kRowAlignment == 0;
  int64_t wave = x.dim(0);
  char* packed = gpu.workspace() + plans.workspace_bytes();
  if (!in_place) {
    const size_t row_bytes = row_elements * DTypeBytes(type);
    const size_t free_bytes = gpu.workspace_bytes() - plans.workspace_bytes();
    LEXICO_CHECK_LE(row_bytes, free_bytes);
    wave = std::min(wave, static_cast<int64_t>(free_bytes / row_bytes));
  }
  for (int64_t begin = 0; begin < x.dim(0); begin += wave) {
    const int64_t n_rows = std::min(wave, x.dim(0) - begin);
    const char* rows = static_cast<const char*>(x.data) + begin * w.n_in() * DTypeBytes(x.dtype);
    float* to = y.as_mutable<float>() + begin * w.n_out();
    if (!in_place) {
      PackRows(gpu, TensorView(rows, x.dtype, {n_rows, w.n_in()}), type, row_elements, packed);
    }
    const ProductShape shape = {n_rows, w.n_out(), row_elements, type,
                                reinterpret_cast<uintptr_t>(to) % 16 == 0};
    plans.Multiply(shape, in_place ? rows : packed, matrix->data(), to, accumulate, gpu.workspace(),
                   gpu.stream());
  }
}

}  // namespace lexico::kernels::cuda

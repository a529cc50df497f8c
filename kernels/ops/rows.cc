#include "kernels/api/rows.h"

#include "kernels/cpu/rows.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/rows.h"
#include "kernels/ops/check_rope.h"

namespace lexico::kernels {
namespace {

void CheckCacheType(DType type) {
  LEXICO_CHECK(type == DType::kF32 || type == DType::kF16 || type == DType::kBF16);
}

void CheckLayout(const PageLayout& layout) {
  LEXICO_CHECK_GE(layout.page_tokens, 1);
  LEXICO_CHECK_GE(layout.n_kv_heads, 1);
  LEXICO_CHECK_GE(layout.head_dim, 1);
}

void CheckDense(const PageLayout& layout, const TensorView& rows) {
  CheckLayout(layout);
  LEXICO_CHECK(layout.is_dense());
  CheckCacheType(layout.dense_type);
  LEXICO_CHECK(rows.dtype == DType::kF32);
  LEXICO_CHECK_EQ(rows.rank, 3);
  LEXICO_CHECK_EQ(rows.dim(0) % layout.page_tokens, 0);
  LEXICO_CHECK_EQ(rows.dim(1), layout.n_kv_heads);
  LEXICO_CHECK_EQ(rows.dim(2), layout.head_dim);
}

void CheckStore(const StoreRowsArgs& args) {
  LEXICO_CHECK(args.k.dtype == DType::kF32);
  LEXICO_CHECK(args.v.dtype == DType::kF32);
  LEXICO_CHECK_EQ(args.k.rank, 2);
  LEXICO_CHECK_EQ(args.v.rank, 2);
  LEXICO_CHECK_EQ(args.v.dim(0), args.k.dim(0));
  LEXICO_CHECK_EQ(args.v.dim(1), args.k.dim(1));
  CheckCacheType(args.type);

  if (args.k.dim(0) == 0) return;
  LEXICO_CHECK(args.k_rows != nullptr);
  LEXICO_CHECK(args.v_rows != nullptr);
  LEXICO_CHECK(args.non_finite != nullptr);
}

}  // namespace

void RoundToType(MutableTensorView x, DType type, int32_t* non_finite, const Stream& stream) {
  LEXICO_CHECK(x.dtype == DType::kF32);
  CheckCacheType(type);
  LEXICO_CHECK(non_finite != nullptr);

  if (x.empty()) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::RoundToType(x, type, non_finite, stream.threads());
    case DeviceKind::kCuda:
      return cuda::RoundToType(x, type, non_finite, stream);
  }
  LEXICO_UNREACHABLE();
}

void StoreRows(const StoreRowsArgs& args, const Stream& stream) {
  CheckStore(args);
  if (args.k.dim(0) == 0) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::StoreRows(args);
    case DeviceKind::kCuda:
      return cuda::StoreRows(args, stream);
  }
  LEXICO_UNREACHABLE();
}

void RotateAndStore(const RopeArgs& rope, const StoreRowsArgs& rows, const Stream& stream) {
  CheckStore(rows);
  LEXICO_CHECK_EQ(rows.k.data, rope.k.data);
  LEXICO_CHECK_EQ(rows.v.data, rope.v.data);
  LEXICO_CHECK_EQ(rows.k.size(), rope.k.size());
  if (rows.k.dim(0) == 0) return;
  if (stream.kind() == DeviceKind::kCuda) {
    CheckRope(rope);
    return cuda::RotateAndStore(rope, rows, stream);
  }
  RotateAndSplit(rope, stream);
  StoreRows(rows, stream);
}

void PackCodes(const PackCodesArgs& args, const Stream& stream) {
  CheckLayout(args.layout);
  LEXICO_CHECK(!args.layout.is_dense());
  LEXICO_CHECK_EQ(args.layout.page_tokens % 2, 0);
  const int sparsity = args.value ? args.layout.sparsity_v : args.layout.sparsity_k;
  LEXICO_CHECK_GE(sparsity, 1);
  LEXICO_CHECK(args.atoms.dtype == DType::kU16);
  LEXICO_CHECK_EQ(args.atoms.rank, 2);
  LEXICO_CHECK_EQ(args.atoms.dim(1), sparsity);
  LEXICO_CHECK_EQ(args.atoms.dim(0) % (args.layout.page_tokens * args.layout.n_kv_heads), 0);
  LEXICO_CHECK(args.coefs.dtype == DType::kU8);
  LEXICO_CHECK_EQ(args.coefs.rank, 2);
  LEXICO_CHECK_EQ(args.coefs.dim(0), args.atoms.dim(0));
  LEXICO_CHECK_EQ(args.coefs.dim(1), sparsity);
  LEXICO_CHECK(args.rel_error.dtype == DType::kF32);
  LEXICO_CHECK_EQ(args.rel_error.size(), args.atoms.dim(0));
  LEXICO_CHECK_EQ(args.page_offset % 2, size_t{0});

  if (args.atoms.empty()) return;
  LEXICO_CHECK(args.pages != nullptr);
  LEXICO_CHECK(args.page_error != nullptr);
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::PackCodes(args);
    case DeviceKind::kCuda:
      return cuda::PackCodes(args, stream);
  }
  LEXICO_UNREACHABLE();
}

void PackDense(const PackDenseArgs& args, const Stream& stream) {
  CheckDense(args.layout, args.rows);
  LEXICO_CHECK_EQ(args.page_offset % DTypeBytes(args.layout.dense_type), size_t{0});

  if (args.rows.empty()) return;
  LEXICO_CHECK(args.pages != nullptr);
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::PackDense(args, stream.threads());
    case DeviceKind::kCuda:
      return cuda::PackDense(args, stream);
  }
  LEXICO_UNREACHABLE();
}

void UnpackDense(const UnpackDenseArgs& args, const Stream& stream) {
  CheckDense(args.layout, args.rows);
  LEXICO_CHECK_EQ(args.page_offset % DTypeBytes(args.layout.dense_type), size_t{0});

  if (args.rows.empty()) return;
  LEXICO_CHECK(args.pages != nullptr);
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::UnpackDense(args, stream.threads());
    case DeviceKind::kCuda:
      return cuda::UnpackDense(args, stream);
  }
  LEXICO_UNREACHABLE();
}

void CopyBlocks(const void* const* from, void* const* to, int64_t n, size_t bytes,
                const Stream& stream) {
  LEXICO_CHECK_GE(n, int64_t{0});

  if (n == 0 || bytes == 0) return;
  LEXICO_CHECK(from != nullptr);
  LEXICO_CHECK(to != nullptr);
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::CopyBlocks(from, to, n, bytes);
    case DeviceKind::kCuda:
      return cuda::CopyBlocks(from, to, n, bytes, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

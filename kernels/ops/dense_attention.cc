#include "kernels/api/dense_attention.h"

#include "kernels/cpu/dense_attention.h"
#include "kernels/cpu/prefill_attention.h"
#include "kernels/cuda/dense_attention.h"
#include "kernels/cuda/prefill_attention.h"
#include "proto/base/limits.h"

namespace lexico::kernels {

namespace {

bool IsFloat(DType type) {
  return type == DType::kF32 || type == DType::kF16 || type == DType::kBF16;
}

void CheckPages(const DenseAttentionArgs& a) {
  const int64_t n_seqs = a.q.dim(0);
  LEXICO_CHECK_EQ(a.page_begin[0], 0);
  for (int64_t seq = 0; seq < n_seqs; ++seq)
    LEXICO_CHECK_LE(a.page_begin[seq], a.page_begin[seq + 1]);
  if (a.page_begin[n_seqs] == 0) return;
  LEXICO_CHECK(a.pages != nullptr);
  LEXICO_CHECK(a.layout.is_dense());
  LEXICO_CHECK_EQ(a.layout.n_kv_heads, a.n_kv_heads);
  LEXICO_CHECK_EQ(a.layout.head_dim, a.q.dim(2));
  LEXICO_CHECK_GE(a.layout.page_tokens, 1);
  LEXICO_CHECK(a.layout.dense_type == a.kv_type);
}

}  // namespace

void DenseAttention(const DenseAttentionArgs& a, const Stream& stream) {
  const int64_t n_seqs = a.q.dim(0);
  const int64_t n_heads = a.q.dim(1);
  const int64_t head_dim = a.q.dim(2);
  LEXICO_CHECK_EQ(a.q.rank, 3);
  LEXICO_CHECK(a.q.dtype == DType::kF32);
  LEXICO_CHECK_GT(a.n_kv_heads, 0);
  LEXICO_CHECK_EQ(n_heads % a.n_kv_heads, 0);
  LEXICO_CHECK_GT(head_dim, 0);
  LEXICO_CHECK_LE(head_dim, base::kHeadDimMax);
  LEXICO_CHECK_NE(a.scale, 0.0f);
  LEXICO_CHECK(IsFloat(a.kv_type));
  LEXICO_CHECK_EQ(a.out.dim(0), n_seqs);
  LEXICO_CHECK_EQ(a.out.dim(1), n_heads);
  LEXICO_CHECK_EQ(a.out.dim(2), head_dim);
  LEXICO_CHECK_EQ(a.max_score.size(), n_seqs * n_heads);
  LEXICO_CHECK_EQ(a.sum_exp.size(), n_seqs * n_heads);
  LEXICO_CHECK_GE(a.rows_max, 0);
  if (a.rows == nullptr) LEXICO_CHECK_EQ(a.rows_max, 0);

  if (n_seqs == 0) return;
  if (a.page_begin != nullptr) CheckPages(a);
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::DenseAttention(a, stream.threads());
    case DeviceKind::kCuda:
      return cuda::DenseAttention(a, stream);
  }
  LEXICO_UNREACHABLE();
}

void PrefillAttention(const PrefillAttentionArgs& a, const Stream& stream) {
  const int64_t n_queries = a.q.dim(0);
  const int64_t n_heads = a.q.dim(1);
  const int64_t head_dim = a.q.dim(2);
  const int64_t n_kv_heads = a.k.dim(1);
  LEXICO_CHECK_EQ(a.q.rank, 3);
  LEXICO_CHECK_EQ(a.k.rank, 3);
  LEXICO_CHECK_EQ(a.v.rank, 3);
  LEXICO_CHECK(IsFloat(a.k.dtype));
  LEXICO_CHECK(a.v.dtype == a.k.dtype);
  LEXICO_CHECK(a.q.dtype == DType::kF32 || a.q.dtype == a.k.dtype);
  LEXICO_CHECK(a.out.dtype == DType::kF32 || a.out.dtype == a.k.dtype);
  if (stream.kind() == DeviceKind::kCpu) LEXICO_CHECK(a.k.dtype == DType::kF32);
  LEXICO_CHECK_GT(n_kv_heads, 0);
  LEXICO_CHECK_EQ(n_heads % n_kv_heads, 0);
  LEXICO_CHECK_GT(head_dim, 0);
  LEXICO_CHECK_LE(head_dim, base::kHeadDimMax);
  LEXICO_CHECK_EQ(a.k.dim(2), head_dim);
  LEXICO_CHECK_EQ(a.v.dim(0), a.k.dim(0));
  LEXICO_CHECK_EQ(a.v.dim(1), n_kv_heads);
  LEXICO_CHECK_EQ(a.v.dim(2), head_dim);
  LEXICO_CHECK_GE(a.first_position, 0);
  LEXICO_CHECK_GE(a.k.dim(0), a.first_position + n_queries);
  LEXICO_CHECK_NE(a.scale, 0.0f);
  LEXICO_CHECK_EQ(a.out.dim(0), n_queries);
  LEXICO_CHECK_EQ(a.out.dim(1), n_heads);
  LEXICO_CHECK_EQ(a.out.dim(2), head_dim);

  if (n_queries == 0) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::PrefillAttention(a, cpu::BestBf16Tile(), stream.threads());
    case DeviceKind::kCuda:
      return cuda::PrefillAttention(a, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

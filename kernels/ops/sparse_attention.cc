#include "kernels/api/sparse_attention.h"

#include "kernels/cpu/sparse_attention.h"
#include "kernels/cuda/sparse_attention.h"
#include "kernels/ops/check_codes.h"

namespace lexico::kernels {
namespace {

void CheckPerHead(const TensorView& view, int64_t n_seqs, int64_t n_heads) {
  LEXICO_CHECK_EQ(view.rank, 2);
  LEXICO_CHECK_EQ(view.dim(0), n_seqs);
  LEXICO_CHECK_EQ(view.dim(1), n_heads);
  LEXICO_CHECK_EQ(static_cast<int>(view.dtype), static_cast<int>(DType::kF32));
}

}  // namespace

void SparseAttention(const SparseAttentionArgs& args, const Stream& stream) {
  LEXICO_CHECK_EQ(args.q.rank, 3);
  const int64_t n_seqs = args.q.dim(0);
  const int64_t n_heads = args.q.dim(1);
  const int64_t head_dim = args.q.dim(2);
  LEXICO_CHECK_EQ(static_cast<int>(args.q.dtype), static_cast<int>(DType::kF32));
  LEXICO_CHECK_GT(args.scale, 0.0f);
  CheckCodes(args.layout, false, args.dictionary_k);
  CheckCodes(args.layout, true, args.dictionary_v);
  LEXICO_CHECK_EQ(n_heads % args.layout.n_kv_heads, 0);
  LEXICO_CHECK_GE(n_heads, args.layout.n_kv_heads);
  LEXICO_CHECK_EQ(args.layout.head_dim, head_dim);
  LEXICO_CHECK_EQ(args.out.rank, 3);
  LEXICO_CHECK_EQ(args.out.dim(0), n_seqs);
  LEXICO_CHECK_EQ(args.out.dim(1), n_heads);
  LEXICO_CHECK_EQ(args.out.dim(2), head_dim);
  LEXICO_CHECK_EQ(static_cast<int>(args.out.dtype), static_cast<int>(DType::kF32));
  CheckPerHead(args.max_score, n_seqs, n_heads);
  CheckPerHead(args.sum_exp, n_seqs, n_heads);

  if (n_seqs == 0) return;
  LEXICO_CHECK(args.page_begin != nullptr);
  LEXICO_CHECK_EQ(args.page_begin[0], 0);
  for (int64_t i = 0; i < n_seqs; ++i) {
    LEXICO_CHECK_LE(args.page_begin[i], args.page_begin[i + 1]);
  }
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::SparseAttention(args, stream);
    case DeviceKind::kCuda:
      return cuda::SparseAttention(args, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

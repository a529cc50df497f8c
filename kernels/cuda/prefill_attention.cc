#include "kernels/cuda/prefill_attention.h"

#include <limits>

#include "kernels/cuda/prefill_attention_inputs.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {

void PrefillAttention(const PrefillAttentionArgs& args, const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  const int64_t n_queries = args.q.dim(0);
  LEXICO_CHECK_LE(args.first_position + n_queries, int64_t{std::numeric_limits<int>::max()} / 2);
  PrefillInputs in = {};
  in.q = args.q.data;
  in.k = args.k.data;
  in.v = args.v.data;
  in.out = const_cast<void*>(args.out.data);
  in.q_type = args.q.dtype;
  in.out_type = args.out.dtype;
  in.n_queries = static_cast<int>(n_queries);
  in.first_position = static_cast<int>(args.first_position);
  in.n_heads = static_cast<int>(args.q.dim(1));
  in.n_kv_heads = static_cast<int>(args.k.dim(1));
  in.group = in.n_heads / in.n_kv_heads;
  in.head_dim = static_cast<int>(args.q.dim(2));
  in.scale = args.scale;
  // Rows are read 16 bytes at a time.
  if (!args.allow_bf16 || in.head_dim % 8 != 0) return PrefillInF32(gpu, in, args.k.dtype);
  switch (args.k.dtype) {
    case DType::kBF16:
      return PrefillOnTensorCoresBf16(gpu, in);
    case DType::kF16:
      return PrefillOnTensorCoresF16(gpu, in);
    default:
      return PrefillOnTensorCoresBf16FromF32(gpu, in);
  }
}

}  // namespace lexico::kernels::cuda

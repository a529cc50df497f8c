#include "kernels/api/merge_partials.h"

#include "kernels/cpu/merge_partials.h"
#include "kernels/cuda/merge_partials.h"

namespace lexico::kernels {

void MergePartials(std::span<const AttentionPart> parts, MutableTensorView out,
                   const Stream& stream) {
  LEXICO_CHECK_GE(parts.size(), size_t{1});
  LEXICO_CHECK_EQ(out.rank, 3);
  if (stream.kind() == DeviceKind::kCpu) {
    LEXICO_CHECK_EQ(static_cast<int>(out.dtype), static_cast<int>(DType::kF32));
  }
  for (const AttentionPart& part : parts) {
    LEXICO_CHECK_EQ(part.out.rank, 3);
    LEXICO_CHECK_EQ(part.out.dim(0), out.dim(0));
    LEXICO_CHECK_EQ(part.out.dim(1), out.dim(1));
    LEXICO_CHECK_EQ(part.out.dim(2), out.dim(2));
    LEXICO_CHECK_EQ(static_cast<int>(part.out.dtype), static_cast<int>(DType::kF32));
    for (const TensorView* per_head : {&part.max_score, &part.sum_exp}) {
      LEXICO_CHECK_EQ(per_head->rank, 2);
      LEXICO_CHECK_EQ(per_head->dim(0), out.dim(0));
      LEXICO_CHECK_EQ(per_head->dim(1), out.dim(1));
      LEXICO_CHECK_EQ(static_cast<int>(per_head->dtype), static_cast<int>(DType::kF32));
    }
  }

  if (out.empty()) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::MergePartials(parts, out, stream);
    case DeviceKind::kCuda:
      return cuda::MergePartials(parts, out, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

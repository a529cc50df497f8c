#include "kernels/api/reconstruct.h"

#include "kernels/cpu/reconstruct.h"
#include "kernels/cuda/reconstruct.h"
#include "kernels/ops/check_codes.h"

namespace lexico::kernels {

void Reconstruct(const ReconstructArgs& args, const Stream& stream) {
  CheckCodes(args.layout, args.value, args.dictionary);
  LEXICO_CHECK_GE(args.n_pages, 0);
  LEXICO_CHECK_EQ(args.out.rank, 3);
  LEXICO_CHECK_EQ(args.out.dim(0), args.n_pages * args.layout.page_tokens);
  LEXICO_CHECK_EQ(args.out.dim(1), args.layout.n_kv_heads);
  LEXICO_CHECK_EQ(args.out.dim(2), args.layout.head_dim);
  LEXICO_CHECK_EQ(static_cast<int>(args.out.dtype), static_cast<int>(DType::kF32));

  if (args.n_pages == 0) return;
  LEXICO_CHECK(args.pages != nullptr);
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::Reconstruct(args, stream);
    case DeviceKind::kCuda:
      return cuda::Reconstruct(args, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

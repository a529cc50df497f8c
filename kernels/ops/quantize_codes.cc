#include "kernels/api/quantize_codes.h"

#include "kernels/cpu/quantize_codes.h"
#include "kernels/cuda/quantize_codes.h"
#include "kernels/ops/check_codes.h"

namespace lexico::kernels {

void QuantizeCodes(const QuantizeCodesArgs& args, const Stream& stream) {
  const PageLayout& layout = args.layout;
  const VectorCode code = layout.code(args.value);
  CheckCodes(layout, args.value, args.dictionary);
  LEXICO_CHECK(args.x.dtype == DType::kF32);
  LEXICO_CHECK_EQ(args.x.rank, 2);
  LEXICO_CHECK_EQ(args.x.dim(0) % (layout.page_tokens * layout.n_kv_heads), 0);
  LEXICO_CHECK_EQ(args.x.dim(1), layout.head_dim);
  LEXICO_CHECK_EQ(args.page_offset % 2, size_t{0});
  if (code.sparsity > 0) {
    LEXICO_CHECK(args.atoms.dtype == DType::kU16);
    LEXICO_CHECK_EQ(args.atoms.dim(0), args.x.dim(0));
    LEXICO_CHECK_EQ(args.atoms.dim(1), code.sparsity);
    LEXICO_CHECK(args.coefficients.dtype == DType::kF32);
    LEXICO_CHECK_EQ(args.coefficients.dim(0), args.x.dim(0));
    LEXICO_CHECK_EQ(args.coefficients.dim(1), code.sparsity);
  }

  if (args.x.empty()) return;
  LEXICO_CHECK(args.pages != nullptr);
  LEXICO_CHECK(args.page_error != nullptr);
  LEXICO_CHECK(args.n_non_finite != nullptr);
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::QuantizeCodes(args, stream);
    case DeviceKind::kCuda:
      return cuda::QuantizeCodes(args, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

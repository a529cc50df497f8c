#include "kernels/api/demote_codes.h"

#include "kernels/cpu/demote_codes.h"
#include "kernels/cuda/demote_codes.h"
#include "kernels/ops/check_codes.h"

namespace lexico::kernels {

void DemoteCodes(const DemoteCodesArgs& args, const Stream& stream) {
  CheckCodes(args.layout, args.value, args.dictionary);
  const int64_t n_vectors = args.n_pages * args.layout.page_tokens * args.layout.n_kv_heads;
  LEXICO_CHECK_GE(args.n_pages, 0);
  LEXICO_CHECK_GE(args.sparsity, 1);
  LEXICO_CHECK_LE(args.sparsity, args.layout.code(args.value).sparsity);
  LEXICO_CHECK_EQ(args.atoms.rank, 2);
  LEXICO_CHECK_EQ(args.atoms.dim(0), n_vectors);
  LEXICO_CHECK_EQ(args.atoms.dim(1), args.sparsity);
  LEXICO_CHECK(args.atoms.dtype == DType::kU16);
  LEXICO_CHECK_EQ(args.coefs.rank, 2);
  LEXICO_CHECK_EQ(args.coefs.dim(0), n_vectors);
  LEXICO_CHECK_EQ(args.coefs.dim(1), args.sparsity);
  LEXICO_CHECK(args.coefs.dtype == DType::kU8);
  LEXICO_CHECK_EQ(args.rel_error.rank, 1);
  LEXICO_CHECK_EQ(args.rel_error.dim(0), n_vectors);
  LEXICO_CHECK(args.rel_error.dtype == DType::kF32);
  if (args.coefficients.data != nullptr) {
    LEXICO_CHECK(stream.kind() == DeviceKind::kCpu);
    LEXICO_CHECK_EQ(args.coefficients.dim(0), n_vectors);
    LEXICO_CHECK_EQ(args.coefficients.dim(1), args.sparsity);
    LEXICO_CHECK(args.coefficients.dtype == DType::kF32);
  }

  if (n_vectors == 0) return;
  LEXICO_CHECK(args.pages != nullptr);
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::DemoteCodes(args, stream);
    case DeviceKind::kCuda:
      LEXICO_CHECK(args.layout.code(args.value).is_paper());
      return cuda::DemoteCodes(args, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

#include "kernels/api/omp_encode.h"

#include <utility>

#include "kernels/cpu/omp_encode.h"
#include "kernels/cuda/omp_encode.h"
#include "proto/base/limits.h"

namespace lexico::kernels {

void OmpEncode(const OmpEncodeArgs& args, const Stream& stream) {
  LEXICO_CHECK(args.dictionary != nullptr);
  LEXICO_CHECK_EQ(args.x.rank, 2);
  const int64_t n_vectors = args.x.dim(0);
  LEXICO_CHECK_EQ(args.x.dim(1), args.dictionary->head_dim());
  LEXICO_CHECK_EQ(static_cast<int>(args.x.dtype), static_cast<int>(DType::kF32));
  LEXICO_CHECK_GE(args.sparsity, 1);
  LEXICO_CHECK_LE(args.sparsity, base::kSparsityMax);
  LEXICO_CHECK_LE(args.sparsity, args.dictionary->head_dim());
  LEXICO_CHECK_GE(args.error_threshold, 0.0f);
  LEXICO_CHECK_LT(args.error_threshold, 1.0f);
  LEXICO_CHECK_EQ(args.atoms.rank, 2);
  LEXICO_CHECK_EQ(args.atoms.dim(0), n_vectors);
  LEXICO_CHECK_EQ(args.atoms.dim(1), args.sparsity);
  LEXICO_CHECK_EQ(static_cast<int>(args.atoms.dtype), static_cast<int>(DType::kU16));
  LEXICO_CHECK_EQ(args.coefs.rank, 2);
  LEXICO_CHECK_EQ(args.coefs.dim(0), n_vectors);
  LEXICO_CHECK_EQ(args.coefs.dim(1), args.sparsity);
  LEXICO_CHECK_EQ(static_cast<int>(args.coefs.dtype), static_cast<int>(DType::kU8));
  LEXICO_CHECK_EQ(args.rel_error.rank, 1);
  LEXICO_CHECK_EQ(args.rel_error.dim(0), n_vectors);
  LEXICO_CHECK_EQ(static_cast<int>(args.rel_error.dtype), static_cast<int>(DType::kF32));
  if (args.coefficients.data != nullptr) {
    LEXICO_CHECK_EQ(args.coefficients.dim(0), n_vectors);
    LEXICO_CHECK_EQ(args.coefficients.dim(1), args.sparsity);
    LEXICO_CHECK(args.coefficients.dtype == DType::kF32);
  }

  if (n_vectors == 0) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::OmpEncode(args, stream);
    case DeviceKind::kCuda:
      return cuda::OmpEncode(args, stream);
  }
  LEXICO_UNREACHABLE();
}

std::shared_ptr<const PreparedDictionary> DictionaryForCoding(
    std::shared_ptr<const PreparedDictionary> dictionary, int64_t n_vectors, int sparsity,
    const Stream& stream) {
  LEXICO_CHECK(dictionary != nullptr);
  LEXICO_CHECK_GE(n_vectors, int64_t{0});
  LEXICO_CHECK_GE(sparsity, 1);
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::DictionaryForCoding(std::move(dictionary), n_vectors, sparsity, stream);
    case DeviceKind::kCuda:
      return dictionary;
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

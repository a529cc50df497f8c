#include "kernels/api/update_atoms.h"

#include "kernels/cpu/update_atoms.h"
#include "kernels/cuda/update_atoms.h"
#include "proto/base/limits.h"

namespace lexico::kernels {

void UpdateAtoms(const UpdateAtomsArgs& args, const Stream& stream) {
  LEXICO_CHECK_EQ(args.x.rank, 2);
  LEXICO_CHECK_EQ(args.atoms.rank, 2);
  LEXICO_CHECK_EQ(args.rows.rank, 2);
  const int64_t n_vectors = args.x.dim(0);
  const int64_t n_atoms = args.rows.dim(0);
  LEXICO_CHECK_LE(n_vectors, kUpdateVectorsMax);
  LEXICO_CHECK_EQ(args.rows.dim(1), args.x.dim(1));
  LEXICO_CHECK_LE(args.x.dim(1), int64_t{base::kHeadDimMax});
  LEXICO_CHECK_LE(n_atoms, int64_t{base::kAtomsMax});
  LEXICO_CHECK_EQ(args.atoms.dim(0), n_vectors);
  LEXICO_CHECK_GE(args.atoms.dim(1), int64_t{1});
  LEXICO_CHECK_LE(args.atoms.dim(1), int64_t{base::kSparsityMax});
  LEXICO_CHECK_EQ(args.coefs.size(), args.atoms.size());
  LEXICO_CHECK_EQ(args.rel_error.size(), n_vectors);
  LEXICO_CHECK_EQ(args.weights.size(), n_atoms);
  LEXICO_CHECK_EQ(args.n_uses.size(), n_atoms);
  LEXICO_CHECK(args.x.dtype == DType::kF32);
  LEXICO_CHECK(args.atoms.dtype == DType::kU16);
  LEXICO_CHECK(args.coefs.dtype == DType::kU8);
  LEXICO_CHECK(args.rel_error.dtype == DType::kF32);
  LEXICO_CHECK(args.rows.dtype == DType::kF32);
  LEXICO_CHECK(args.weights.dtype == DType::kF32);
  LEXICO_CHECK(args.n_uses.dtype == DType::kI32);
  LEXICO_CHECK_GE(args.memory, 0.0f);
  LEXICO_CHECK_LE(args.memory, 1.0f);

  if (n_vectors == 0) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::UpdateAtoms(args, stream);
    case DeviceKind::kCuda:
      return cuda::UpdateAtoms(args, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

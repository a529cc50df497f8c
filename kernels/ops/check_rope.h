// What RotateAndSplit and RotateAndStore require of their arguments.
#pragma once

#include "kernels/api/elementwise.h"
#include "proto/base/check.h"
#include "proto/base/limits.h"

namespace lexico::kernels {

inline void CheckHeads(const MutableTensorView& heads, int64_t n_rows, int n_heads, int head_dim) {
  LEXICO_CHECK(heads.dtype == DType::kF32);
  LEXICO_CHECK_EQ(heads.rank, 3);
  LEXICO_CHECK_EQ(heads.dim(0), n_rows);
  LEXICO_CHECK_EQ(heads.dim(1), n_heads);
  LEXICO_CHECK_EQ(heads.dim(2), head_dim);
}

inline void CheckRope(const RopeArgs& args) {
  LEXICO_CHECK(args.qkv.dtype == DType::kF32);
  LEXICO_CHECK_EQ(args.qkv.rank, 2);
  LEXICO_CHECK_GE(args.n_heads, 1);
  LEXICO_CHECK_GE(args.n_kv_heads, 1);
  LEXICO_CHECK_GE(args.head_dim, 2);
  LEXICO_CHECK_EQ(args.head_dim % 2, 0);
  LEXICO_CHECK_LE(args.head_dim, base::kHeadDimMax);
  const int64_t n_rows = args.qkv.dim(0);
  LEXICO_CHECK_EQ(args.qkv.dim(1), (args.n_heads + 2LL * args.n_kv_heads) * args.head_dim);
  CheckHeads(args.q, n_rows, args.n_heads, args.head_dim);
  CheckHeads(args.k, n_rows, args.n_kv_heads, args.head_dim);
  CheckHeads(args.v, n_rows, args.n_kv_heads, args.head_dim);
  if (n_rows == 0) return;
  LEXICO_CHECK(args.positions != nullptr);
  LEXICO_CHECK(args.inv_frequency != nullptr);
}

}  // namespace lexico::kernels

// The ops that lexico-bench-kernels knows. One declaration and one row per op.
#pragma once

#include "kernels/bench/bench.h"

namespace lexico::kernels::bench {

void DenseAttentionSuite(Bench& bench);
void ElementwiseSuite(Bench& bench);
void MatMulSuite(Bench& bench);
void OmpEncodeSuite(Bench& bench);
void PrefillAttentionSuite(Bench& bench);
void SparseAttentionSuite(Bench& bench);

struct Suite {
  const char* op;
  void (*run)(Bench&);
};

inline constexpr Suite kSuites[] = {
    {"omp_encode", OmpEncodeSuite},
    {"sparse_attention", SparseAttentionSuite},
    {"matmul", MatMulSuite},
    {"dense_attention", DenseAttentionSuite},
    {"prefill_attention", PrefillAttentionSuite},
    {"elementwise", ElementwiseSuite},
};

}  // namespace lexico::kernels::bench

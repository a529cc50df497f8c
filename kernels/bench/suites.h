// The ops that lexico-bench-kernels knows. One declaration and one row per op.
#pragma once

#include "kernels/bench/bench.h"

namespace lexico::kernels::bench {

void CodingGpuSuite(Bench& bench);
void CodingSuite(Bench& bench);
void DenseAttentionGpuSuite(Bench& bench);
void DenseAttentionSuite(Bench& bench);
void ElementwiseGpuSuite(Bench& bench);
void ElementwiseSuite(Bench& bench);
void MatMulGpuSuite(Bench& bench);
void MatMulSuite(Bench& bench);
void OmpEncodeGpuSuite(Bench& bench);
void OmpEncodeSuite(Bench& bench);
void PrefillAttentionGpuSuite(Bench& bench);
void PrefillAttentionSuite(Bench& bench);
void SparseAttentionGpuSuite(Bench& bench);
void SparseAttentionSuite(Bench& bench);

struct Suite {
  const char* op;
  void (*run)(Bench&);
  void (*run_on_gpu)(Bench&);  // null: the op has no kernels for a GPU yet
};

inline constexpr Suite kSuites[] = {
    {"omp_encode", OmpEncodeSuite, OmpEncodeGpuSuite},
    {"coding", CodingSuite, CodingGpuSuite},
    {"sparse_attention", SparseAttentionSuite, SparseAttentionGpuSuite},
    {"matmul", MatMulSuite, MatMulGpuSuite},
    {"dense_attention", DenseAttentionSuite, DenseAttentionGpuSuite},
    {"prefill_attention", PrefillAttentionSuite, PrefillAttentionGpuSuite},
    {"elementwise", ElementwiseSuite, ElementwiseGpuSuite},
};

}  // namespace lexico::kernels::bench

// The ops that lexico-bench-kernels knows. One declaration and one row per op.
#pragma once

#include "kernels/bench/bench.h"

namespace lexico::kernels::bench {

void OmpEncodeSuite(Bench& bench);
void SparseAttentionSuite(Bench& bench);

struct Suite {
  const char* op;
  void (*run)(Bench&);
};

inline constexpr Suite kSuites[] = {
    {"omp_encode", OmpEncodeSuite},
    {"sparse_attention", SparseAttentionSuite},
};

}  // namespace lexico::kernels::bench

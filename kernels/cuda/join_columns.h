// Columns that came from several ranks, beside each other (collective.cc).
#pragma once

#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {

inline constexpr int64_t kJoinRowsMax = 65535;  // of a grid

// out [n_rows, width] from blocks of columns, one a rank, of which each takes n_rows * part numbers
// and has [n_rows, part] of them, the last one as many columns as are left. REQUIRES: n_rows <=
// kJoinRowsMax.
void JoinColumns(const Gpu& gpu, const float* blocks, int64_t n_rows, int64_t width, int64_t part,
                 float* out);

}  // namespace lexico::kernels::cuda

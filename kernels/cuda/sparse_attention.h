#pragma once

#include "kernels/api/sparse_attention.h"

namespace lexico::kernels::cuda {

void SparseAttention(const SparseAttentionArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

#pragma once

#include "kernels/api/sparse_attention.h"

namespace lexico::kernels::cuda {

// SparseAttention where K or V is not in the paper's code.
void SparseFamilyAttention(const SparseAttentionArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

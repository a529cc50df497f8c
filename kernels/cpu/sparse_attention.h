// SparseAttention on the CPU; arguments were checked by kernels/ops/sparse_attention.cc.
#pragma once

#include "kernels/api/sparse_attention.h"
#include "kernels/api/stream.h"

namespace lexico::kernels::cpu {

void SparseAttention(const SparseAttentionArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cpu

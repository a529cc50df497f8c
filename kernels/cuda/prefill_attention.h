// PrefillAttention on a GPU; contract in kernels/api/dense_attention.h.
#pragma once

#include "kernels/api/dense_attention.h"

namespace lexico::kernels::cuda {

void PrefillAttention(const PrefillAttentionArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

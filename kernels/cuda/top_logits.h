#pragma once

#include "kernels/api/top_logits.h"

namespace lexico::kernels::cuda {

// Takes n_rows * ceil(n_vocab / 2048) * (n_top * 8 + 40) bytes of the workspace; rows go in several
// waves where that is more than there is. REQUIRES: room for one row, 0.3 MB of a Llama-3 model.
void TopLogits(const TopLogitsArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

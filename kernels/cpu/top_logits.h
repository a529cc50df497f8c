#pragma once

#include "kernels/api/top_logits.h"

namespace lexico::kernels::cpu {

// The definition. A CPU's sampler reads its logits itself.
void TopLogits(const TopLogitsArgs& args);

}  // namespace lexico::kernels::cpu

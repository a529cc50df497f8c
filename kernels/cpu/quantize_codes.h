// QuantizeCodes on the CPU; arguments were checked by kernels/ops/quantize_codes.cc.
#pragma once

#include "kernels/api/quantize_codes.h"

namespace lexico::kernels::cpu {

void QuantizeCodes(const QuantizeCodesArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cpu

#pragma once

#include "kernels/api/quantize_codes.h"

namespace lexico::kernels::cuda {

void QuantizeCodes(const QuantizeCodesArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

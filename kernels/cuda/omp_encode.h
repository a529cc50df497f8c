#pragma once

#include "kernels/api/omp_encode.h"

namespace lexico::kernels::cuda {

void OmpEncode(const OmpEncodeArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

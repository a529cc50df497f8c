#pragma once

#include "kernels/api/reconstruct.h"

namespace lexico::kernels::cuda {

void Reconstruct(const ReconstructArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

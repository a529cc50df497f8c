// Reconstruct on the CPU; arguments were checked by kernels/ops/reconstruct.cc.
#pragma once

#include "kernels/api/reconstruct.h"
#include "kernels/api/stream.h"

namespace lexico::kernels::cpu {

void Reconstruct(const ReconstructArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cpu

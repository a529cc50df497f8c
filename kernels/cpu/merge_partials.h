// MergePartials on the CPU; arguments were checked by kernels/ops/merge_partials.cc.
#pragma once

#include <span>

#include "kernels/api/merge_partials.h"
#include "kernels/api/stream.h"

namespace lexico::kernels::cpu {

void MergePartials(std::span<const AttentionPart> parts, MutableTensorView out,
                   const Stream& stream);

}  // namespace lexico::kernels::cpu

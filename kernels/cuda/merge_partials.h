#pragma once

#include "kernels/api/merge_partials.h"

namespace lexico::kernels::cuda {

// At most this many parts in one call: they travel as the kernel's argument.
inline constexpr int kMergePartsMax = 64;

void MergePartials(std::span<const AttentionPart> parts, MutableTensorView out,
                   const Stream& stream);

}  // namespace lexico::kernels::cuda

// kernels/api/rows.h on the CPU. One form serves as definition and as what runs: copies, and the
// conversions of convert.h, which have definitions of their own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/api/rows.h"

namespace lexico::kernels::cpu {

void RoundToType(MutableTensorView x, DType type, int32_t* non_finite, int threads);
void StoreRows(const StoreRowsArgs& args);
void PackCodes(const PackCodesArgs& args);
void PackDense(const PackDenseArgs& args, int threads);
void UnpackDense(const UnpackDenseArgs& args, int threads);
void CopyBlocks(const void* const* from, void* const* to, int64_t n, size_t bytes);

}  // namespace lexico::kernels::cpu

// kernels/api/rows.h on a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/api/rows.h"

namespace lexico::kernels::cuda {

void RoundToType(MutableTensorView x, DType type, int32_t* non_finite, const Stream& stream);
void StoreRows(const StoreRowsArgs& args, const Stream& stream);
void PackCodes(const PackCodesArgs& args, const Stream& stream);
void PackDense(const PackDenseArgs& args, const Stream& stream);
void UnpackDense(const UnpackDenseArgs& args, const Stream& stream);
void CopyBlocks(const void* const* from, void* const* to, int64_t n, size_t bytes,
                const Stream& stream);

}  // namespace lexico::kernels::cuda

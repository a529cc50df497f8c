// kernels/api/elementwise.h on a GPU.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/api/elementwise.h"
#include "kernels/api/rows.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels::cuda {

void RmsNorm(TensorView x, TensorView weight, float epsilon, MutableTensorView y,
             const Stream& stream);
void RotateAndSplit(const RopeArgs& args, const Stream& stream);
void RotateAndStore(const RopeArgs& args, const StoreRowsArgs& rows, const Stream& stream);
void SwiGlu(TensorView gate_up, MutableTensorView y, const Stream& stream);
void Embed(TensorView table, std::span<const int32_t> ids, MutableTensorView y,
           const Stream& stream);
void Convert(TensorView from, MutableTensorView to, const Stream& stream);

}  // namespace lexico::kernels::cuda
